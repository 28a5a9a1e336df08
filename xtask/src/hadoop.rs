//! Hadoop's NameNode and DataNode, for the tests: those that PySpark 2.4.8 brings (2.7.3; later ones have the client only),
//! from PyPI. They run on Java, which is installed from Debian's packages where it is missing and may be.

use std::fs;
use std::path::Path;

use crate::build::{command, run};
use crate::debian::{self, Program};
use crate::{Result, tools};

const PACKAGE: &str = "pyspark";
const VERSION: &str = "2.4.8";
const SHA256: &str = "3a19b71b8dc8dd91ebc943604a05e1ab01bce052456d42937035632d852d78dc";

/// Reads what the package says of itself. Versions after it have taken away what that needs.
const SETUPTOOLS: &str = "setuptools<60";

const JAVA: Program = Program {
    asks: ("java", "-version"),
    packages: &[
        "openjdk-17-jre-headless",
        "openjdk-21-jre-headless",
        "default-jre-headless",
    ],
    what: "Java 17 or later, for the tests of HDFS and Flink's client",
};

/// What the two need of all that is in the package: 33 of 220 MB.
const JARS: [&str; 38] = [
    "commons-beanutils-1.9.4",
    "commons-cli-1.2",
    "commons-codec-1.10",
    "commons-collections-3.2.2",
    "commons-compiler-3.0.16",
    "commons-compress-1.20",
    "commons-configuration-1.6",
    "commons-crypto-1.0.0",
    "commons-dbcp-1.4",
    "commons-digester-1.8",
    "commons-httpclient-3.1",
    "commons-io-2.4",
    "commons-lang-2.6",
    "commons-lang3-3.5",
    "commons-logging-1.1.3",
    "commons-math3-3.4.1",
    "commons-net-3.1",
    "commons-pool-1.5.4",
    "guava-14.0.1",
    "hadoop-annotations-2.7.3",
    "hadoop-auth-2.7.3",
    "hadoop-common-2.7.3",
    "hadoop-hdfs-2.7.3",
    "htrace-core-3.1.0-incubating",
    "jackson-core-asl-1.9.13",
    "jackson-mapper-asl-1.9.13",
    "javax.servlet-api-3.1.0",
    "javax.ws.rs-api-2.0.1",
    "jetty-6.1.26",
    "jetty-util-6.1.26",
    "leveldbjni-all-1.8",
    "log4j-1.2.17",
    "netty-3.9.9.Final",
    "netty-all-4.1.47.Final",
    "protobuf-java-2.5.0",
    "slf4j-api-1.7.16",
    "slf4j-log4j12-1.7.16",
    "xercesImpl-2.9.1",
];

/// Installs Java if it is missing.
pub(crate) fn java() -> Result<()> {
    debian::install(&JAVA)
}

/// Installs it into a directory if it is missing.
pub(crate) fn install(directory: &Path) -> Result<()> {
    java()?;
    let version = format!("{PACKAGE}=={VERSION}");
    let headline = format!("Hadoop 2.7.3 of {version}, for the tests");
    tools::install_one(directory, &version, &headline, |place| {
        tools::python(&format!("{place}/python"), &[SETUPTOOLS, "wheel"])?;
        let wanted = format!("{place}/wanted.txt");
        fs::write(&wanted, format!("{version} --hash=sha256:{SHA256}\n"))?;
        let python = format!("{place}/python/bin/python");
        let download = ["-m", "pip", "download", "--quiet", "--no-deps"];
        let as_it_is = ["--no-build-isolation", "--no-binary=:all:"];
        let from = [
            "--require-hashes",
            "--requirement",
            &wanted,
            "--dest",
            place,
        ];
        run(command(
            &python,
            ".",
            &[&download[..], &as_it_is, &from].concat(),
        ))?;
        let archive = format!("{place}/{PACKAGE}-{VERSION}.tar.gz");
        let jars = format!("{place}/jars");
        fs::create_dir_all(&jars)?;
        let wanted = format!("{place}/jars.txt");
        let in_archive = JARS.map(|jar| format!("{PACKAGE}-{VERSION}/deps/jars/{jar}.jar\n"));
        fs::write(&wanted, in_archive.concat())?;
        let extract = ["-xzf", &archive, "-C", &jars, "--strip-components=3"];
        run(command(
            "tar",
            ".",
            &[&extract[..], &["-T", &wanted]].concat(),
        ))?;
        fs::remove_file(archive)?;
        fs::remove_dir_all(format!("{place}/python"))?;
        Ok(())
    })
}
