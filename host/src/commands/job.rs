//! From the command line's arguments to a prepared job, or to everything that is wrong with it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use connectors::Registry;
use job_file::checkpoint::absolute;
use job_file::problem::Problems;
use job_file::{JobFile, NamedText, Surroundings};
use operator::clock::Clock;
use wasm::Compiler;

use crate::assemble::{self, Environment, Prepared, build};
use crate::cli::JobArguments;
use crate::exit::Error;

/// Names the global configuration where `--config` does not.
const CONFIG_VARIABLE: &str = "HIGHWATER_CONFIG";

/// Loads the components of all jobs of the process, so that they share what is compiled.
pub(crate) struct Loader {
    compiler: Compiler,
    notice: fn(&str),
    /// Made when a job file is found to be right.
    host: Mutex<Option<wasm::Host>>,
}

impl Loader {
    /// `notice` gets what there is to say while something takes its time.
    pub(crate) fn new(compiler: Compiler, notice: fn(&str)) -> Self {
        Self {
            compiler,
            notice,
            host: Mutex::default(),
        }
    }

    fn host(&self) -> Result<wasm::Host, Error> {
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(host) = &*host {
            return Ok(host.clone());
        }
        let options = wasm::Options::from_environment(self.compiler, self.notice);
        let made = wasm::Host::new(&options).map_err(Error::refused)?;
        Ok(host.insert(made).clone())
    }
}

/// Reads the job file with all that stands around it, and prepares what it names.
pub(crate) fn prepare(
    arguments: &JobArguments,
    loader: &Loader,
    clock: &Arc<dyn Clock>,
) -> Result<Prepared, Error> {
    let job_file = TextFile::read(&arguments.file, "job file")?;
    let config_file = config_path(arguments)
        .map(|path| TextFile::read(&path, "global configuration"))
        .transpose()?;
    let surroundings = Surroundings {
        parallelism: arguments.parallelism,
        http: arguments.http.as_deref(),
        overrides: &arguments.overrides,
        global: config_file.as_ref().map(TextFile::named),
    };
    let mut problems = Problems::default();
    let Some(job) = job_file::read(&job_file.named(), &surroundings, &mut problems) else {
        return Err(problems.into());
    };
    if arguments.build {
        build::build(&job, &mut problems);
    }
    assembled(job, problems, loader, clock)
}

/// The same job with what its sources find to read now. Its components are those that were loaded.
pub(crate) fn with_present_inputs(
    mut prepared: Prepared,
    loader: &Loader,
    clock: &Arc<dyn Clock>,
) -> Result<Prepared, Error> {
    match prepared.look_for_inputs(&Registry::default(), clock)? {
        true => Ok(prepared),
        // Other columns, or more files than before: what follows from them is found out from the beginning.
        false => assembled(prepared.job, Problems::default(), loader, clock),
    }
}

fn assembled(
    job: JobFile,
    mut problems: Problems,
    loader: &Loader,
    clock: &Arc<dyn Clock>,
) -> Result<Prepared, Error> {
    let host = loader.host()?;
    let environment = Environment {
        wasm: &host,
        connectors: &Registry::default(),
        clock,
    };
    match assemble::prepare(job, &environment, &mut problems) {
        Some(prepared) => Ok(prepared),
        None => Err(problems.into()),
    }
}

/// The same job at another parallelism.
pub(crate) fn rescaled(
    prepared: &Prepared,
    parallelism: u32,
    loader: &Loader,
    clock: &Arc<dyn Clock>,
) -> Result<Prepared, Error> {
    let mut job = prepared.job.clone();
    job.job.parallelism = parallelism;
    assembled(job, Problems::default(), loader, clock)
}

fn config_path(arguments: &JobArguments) -> Option<PathBuf> {
    arguments.config.clone().or_else(|| {
        std::env::var_os(CONFIG_VARIABLE)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
    })
}

struct TextFile {
    file: Arc<str>,
    base: PathBuf,
    text: String,
}

impl TextFile {
    fn read(path: &Path, what: &str) -> Result<Self, Error> {
        let reading = || format!("reading {what} {}", path.display());
        let text = std::fs::read_to_string(path)
            .with_context(reading)
            .map_err(|error| {
                let inside = path.join("job.toml");
                let error = Error::refused(error);
                if inside.is_file() {
                    error.hint(format!("did you mean {}?", inside.display()))
                } else {
                    error
                }
            })?;
        // Of a bare file name the parent is empty, which is no path that could be made absolute.
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        let base = absolute(parent.unwrap_or(Path::new(".")));
        Ok(Self {
            file: path.display().to_string().into(),
            base,
            text,
        })
    }

    fn named(&self) -> NamedText<'_> {
        NamedText {
            file: Arc::clone(&self.file),
            base: &self.base,
            text: &self.text,
        }
    }
}
