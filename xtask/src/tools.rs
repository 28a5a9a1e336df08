//! What tests need beside the host, below `target/`: the S3 servers that they talk to (moto's, which honours
//! conditional writes, and s3rver, which does not), one of Azure (Azurite), Hadoop's own, Flink's client, the
//! parser of Prometheus and its server, that of OTLP, Chromium and what drives it, the packages of the reader of checkpoints in
//! `tests/reader/`, the SQL engine of `tests/sql/` and what builds the counters of `tests/guests/`, from PyPI and npm,
//! and the maker of random components in `tests/smith/`.
//!
//! Pinned, so that a test means the same tomorrow. A mark with the versions is left when all is
//! there; without it everything is installed again, so that an interrupted install is not used.

use std::fs;
use std::path::Path;

use crate::build::{cargo, command, run};
use crate::debian::{self, Program};
use crate::{Result, flink, hadoop, root, story};

const MOTO: &str = "moto[server]==5.2.5";
const S3RVER: &str = "s3rver@3.7.1";
const PROMETHEUS: &str = "prometheus-client==0.26.0";
const OTLP: &str = "opentelemetry-proto==1.45.2";
/// Debian's, whatever its version.
const PROMETHEUS_SERVER: &str = "prometheus";
const AZURITE: &str = "azurite@3.37.0";
const PLAYWRIGHT: &str = "playwright-core@1.64.1";

const CHROMIUM: Program = Program {
    asks: ("chromium", "--version"),
    packages: &["chromium"],
    what: "Chromium, for the test of the web page",
};

/// What the reader of checkpoints needs, with versions.
const READER: &str = "tests/reader/requirements.txt";

/// The SQL engine, with its version.
const SQL: &str = "tests/sql/requirements.txt";

/// Installs what is missing.
pub(crate) fn install() -> Result<()> {
    let directory = root().join("target/s3");
    let for_tests = |version: &str| {
        let named = version.split_whitespace().collect::<Vec<_>>().join(", ");
        format!("{named}, for the tests")
    };
    install_one(&directory.join("moto"), MOTO, &for_tests(MOTO), |place| {
        python(place, &[MOTO])
    })?;
    install_one(
        &directory.join("s3rver"),
        S3RVER,
        &for_tests(S3RVER),
        |place| node(place, S3RVER),
    )?;
    install_one(
        &root().join("target/azure/azurite"),
        AZURITE,
        &for_tests(AZURITE),
        |place| node(place, AZURITE),
    )?;
    install_one(
        &root().join("target/prometheus"),
        PROMETHEUS,
        &for_tests(PROMETHEUS),
        |place| python(place, &[PROMETHEUS]),
    )?;
    install_one(
        &root().join("target/otlp"),
        OTLP,
        &for_tests(OTLP),
        |place| python(place, &[OTLP]),
    )?;
    install_one(
        &root().join("target/prometheus-server"),
        PROMETHEUS_SERVER,
        "Prometheus, for the tests",
        |place| debian::unpack(PROMETHEUS_SERVER, place),
    )?;
    debian::install(&CHROMIUM)?;
    install_one(
        &root().join("target/page"),
        PLAYWRIGHT,
        &for_tests(PLAYWRIGHT),
        |place| node(place, PLAYWRIGHT),
    )?;
    hadoop::install(&root().join("target/hdfs"))?;
    flink::install(&root().join("target/flink"))?;
    smith()?;
    for (requirements, place) in [(READER, "target/reader"), (SQL, "target/sql")] {
        let packages = fs::read_to_string(root().join(requirements))?;
        let place = root().join(place);
        install_one(&place, &packages, &for_tests(&packages), |place| {
            python(place, &["--requirement", requirements])
        })?;
    }
    Ok(())
}

/// Installs one thing into a directory, unless this version of it is there already. `headline` says what
/// is done if it is not.
pub(crate) fn install_one(
    directory: &Path,
    version: &str,
    headline: &str,
    install: impl FnOnce(&str) -> Result<()>,
) -> Result<()> {
    let mark = directory.join("installed");
    if fs::read_to_string(&mark).is_ok_and(|installed| installed == version) {
        return Ok(());
    }
    story::step(headline);
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory)?;
    let place = directory
        .to_str()
        .ok_or("the repository's path is not Unicode")?;
    install(place)?;
    fs::write(mark, version)?;
    Ok(())
}

/// Builds what makes components at random. Cargo knows when that has to be done.
fn smith() -> Result<()> {
    let build = ["build", "--quiet", "--target-dir", "../../target/smith"];
    run(cargo("tests/smith", &build))
}

/// Packages in a virtual environment. `packages` are arguments of `pip install`.
pub(crate) fn python(place: &str, packages: &[&str]) -> Result<()> {
    run(command("python3", ".", &["-m", "venv", place]))
        .map_err(|error| format!("{error}\nhint: python3 with pip and venv is needed"))?;
    let python = Path::new(place).join("bin/python");
    let python = python.to_string_lossy();
    let install = ["-m", "pip", "install", "--quiet"];
    run(command(&python, ".", &[&install, packages].concat()))
}

/// A package of npm.
pub(crate) fn node(place: &str, package: &str) -> Result<()> {
    // Without the scripts of packages: none is needed.
    let install = ["install", "--prefix", place, "--no-audit", "--no-fund"];
    let quietly = ["--ignore-scripts", "--loglevel=error", package];
    run(command(
        "npm",
        ".",
        &[install.as_slice(), &quietly].concat(),
    ))
    .map_err(|error| format!("{error}\nhint: node with npm is needed").into())
}
