//! The command-line client of Apache Flink, for the tests: out of the libraries that PyFlink brings, from PyPI.

use std::fs;
use std::path::Path;

use crate::build::{command, run};
use crate::{Result, hadoop, tools};

const PACKAGE: &str = "apache-flink-libraries";
const VERSION: &str = "2.3.0";
const SHA256: &str = "38ece876553286b3a285cf344c2d2038f8a7ca10da5df54d5107250386d64151";

/// Takes out of the package what the client needs: 212 of 329 MB.
const UNPACK: &str = "\
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as package:
    for name in package.namelist():
        if name.startswith(('pyflink/lib/flink-dist-', 'pyflink/lib/log4j-')):
            with package.open(name) as jar, open(sys.argv[2] + '/' + name.rsplit('/', 1)[1], 'wb') as to:
                while part := jar.read(1 << 20):
                    to.write(part)
";

/// Installs it into a directory if it is missing.
pub(crate) fn install(directory: &Path) -> Result<()> {
    hadoop::java()?;
    let version = format!("{PACKAGE}=={VERSION}");
    let headline = format!("Flink's client of {version}, for the tests");
    tools::install_one(directory, &version, &headline, |place| {
        let wanted = format!("{place}/wanted.txt");
        fs::write(&wanted, format!("{version} --hash=sha256:{SHA256}\n"))?;
        let download = ["-m", "pip", "download", "--quiet", "--no-deps"];
        let from = [
            "--require-hashes",
            "--requirement",
            &wanted,
            "--dest",
            place,
        ];
        run(command("python3", ".", &[&download[..], &from].concat()))?;
        let package = format!(
            "{place}/{}-{VERSION}-py2.py3-none-any.whl",
            PACKAGE.replace('-', "_")
        );
        let jars = format!("{place}/jars");
        fs::create_dir_all(&jars)?;
        run(command("python3", ".", &["-c", UNPACK, &package, &jars]))?;
        fs::remove_file(package)?;
        let conf = format!("{place}/conf");
        fs::create_dir_all(&conf)?;
        fs::write(format!("{conf}/config.yaml"), "{}\n")?;
        fs::write(
            format!("{conf}/log4j.properties"),
            "rootLogger.level = OFF\n",
        )?;
        Ok(())
    })
}
