//! The command line: what can be asked of `host`. What it means is in [`crate::commands`].

use std::path::PathBuf;
use std::time::Duration;

use checkpoint::lease::RewindMode;
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::logging::Format;

/// Runs stateful stream operators that are WebAssembly components, with checkpoints and
/// exactly-once output.
#[derive(Debug, Parser)]
#[command(name = "host", version, max_term_width = 100)]
pub(crate) struct Cli {
    /// How what is said on stderr is written; `HIGHWATER_LOG` says what is logged, such as `info` or `runtime=info`
    #[arg(
        long,
        value_enum,
        default_value_t,
        global = true,
        value_name = "FORMAT"
    )]
    pub(crate) log_format: Format,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a job until it finishes or is stopped
    ///
    /// Ctrl-C cancels the job (again: exits at once). SIGTERM suspends it: nothing is deleted, and it
    /// can be resumed from its newest checkpoint; SIGHUP (the terminal is closed) does the same, unless it is
    /// ignored, as by `nohup`. While a standby waits, each of them ends it at once, with exit code 0.
    ///
    /// Exit codes: 0 finished, or stopped as asked; 1 the job failed; 2 refused before any record was
    /// processed; 3 the checkpoint is corrupt; 129, 130 or 143 ended at once by a second signal.
    Run(Run),
    /// Run several jobs in one process: files, and directories whose job files are watched
    ///
    /// Each job starts as with `run --resume`, and starts, fails, restarts and ends by itself. In a directory, a new
    /// file `*.toml` starts a job, a removed one suspends it; a changed one is checked, and if the newest checkpoint
    /// fits, the job is suspended and goes on with it. SIGTERM and Ctrl-C suspend all jobs.
    ///
    /// Exit codes: 0 ended by a signal. Without a directory it ends when all jobs have, with the highest of their
    /// codes.
    Serve(Serve),
    /// Say everything that is wrong with a job file, or print the effective job with all defaults
    ///
    /// Components are loaded, and each operator is opened once as a run does it, so that a missing column
    /// is reported. Nothing is processed and nothing is written.
    ///
    /// With `--from` it says instead what a start from a checkpoint would do: for each source, operator, state and
    /// sink what would be restored, migrated, dropped or refused. The checkpoint is only read, and it does not
    /// matter whether the job runs. Exit codes: 0 it would start; 2 it would be refused; 3 the checkpoint is corrupt.
    Check(Check),
    /// Try records again that are in capsules: what `on-error = "dead-letter"` wrote
    ///
    /// Each is processed alone, by the operator of its job file, with the states that its key had. Nothing else of the
    /// job runs, and nothing is written. Exit codes: 0 none fails any more; 1 some fail; 2 it could not be tried.
    Replay(Replay),
    /// Look at checkpoints and remove them: in any directory, file://, s3://, az://, gs:// or hdfs:// URL, no job needed
    #[command(subcommand)]
    Checkpoints(Checkpoints),
    /// Remove savepoints: in any directory, file://, s3://, az://, gs:// or hdfs:// URL, no job needed
    #[command(subcommand)]
    Savepoints(Savepoints),
    /// List the running hosts of this user and their jobs
    List(List),
    /// Say how a running job is
    Status(RunningJob),
    /// Show what the running jobs of this user do, again and again
    ///
    /// For each job and each of its threads: records a second, the share of the time in which the busiest subtask works
    /// and is held up by those after it, how far event time is behind the clock, the size of the state, and the newest
    /// checkpoint. Ends with Ctrl-C; if the output is not a terminal, after the first time.
    Top(Top),
    /// Take a checkpoint of a running job now
    ///
    /// Prints its path on the first line. Exit codes: 0 done; 1 it failed, and the job goes on; 2 refused: no such
    /// job, or its state does not allow it.
    Checkpoint(PlainOperation),
    /// Take a savepoint of a running job, which goes on
    ///
    /// Prints its path on the first line. Exit codes: 0 done; 1 it failed, and the job goes on; 2 refused: no such
    /// job, no directory, or the job's state does not allow it.
    Savepoint(Savepoint),
    /// End a running job at a checkpoint, with no record after it
    ///
    /// Prints the path of the savepoint or checkpoint on the first line. Exit codes: 0 stopped; 1 it failed; 2 refused:
    /// no such job, or its state does not allow it.
    Stop(Stop),
    /// End a running job at once
    Cancel(PlainOperation),
    /// Let a running job go on at another parallelism
    ///
    /// It is stopped at a checkpoint and started again. If the start fails, it goes on at the old one.
    Rescale(Rescale),
    /// Change how often checkpoints of a running job are taken
    ///
    /// Until the host ends: the job file stays as it is.
    Interval(Interval),
    /// Compile a component from stdin; `host` starts this itself
    #[command(name = wasm::SUBCOMMAND, hide = true)]
    CompileComponent,
}

/// `host run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// The job and what overrides it.
    #[command(flatten)]
    pub(crate) job: JobArguments,
    /// Where to start from.
    #[command(flatten)]
    pub(crate) restore: RestoreArguments,
    /// Print one JSON object a line on stdout for every event
    #[arg(long)]
    pub(crate) json: bool,
}

/// `host check`.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The job and what overrides it.
    #[command(flatten)]
    pub(crate) job: JobArguments,
    /// Say what a start from this checkpoint would do: named as for `host run -s`
    #[arg(
        short = 's',
        long = "from",
        visible_alias = "from-savepoint",
        visible_alias = "from-checkpoint",
        value_name = "CHECKPOINT"
    )]
    pub(crate) from: Option<String>,
    /// What may become of state that does not fit.
    #[command(flatten)]
    pub(crate) upgrade: UpgradeArguments,
    /// As for `host run`
    #[arg(long, requires = "from")]
    pub(crate) allow_drained: bool,
    /// As for `host run`
    #[arg(long, requires = "from")]
    pub(crate) fallback: bool,
    /// Print JSON
    #[arg(long, requires = "from")]
    pub(crate) json: bool,
}

/// `host serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Job files, and directories with job files
    #[arg(value_name = "JOBS", required = true)]
    pub(crate) places: Vec<PathBuf>,
    /// Global configuration: defaults for job.state-backend, [checkpoint] and [restart], also under Flink's names
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Where the REST API is served.
    #[command(flatten)]
    pub(crate) http: HttpArguments,
    /// Print one JSON object a line on stdout for every event, with the job's id as `job`
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where the REST API of several jobs is served, and to whom.
#[derive(Debug, Args)]
pub(crate) struct HttpArguments {
    /// Serve the REST API, metrics and web page on this address, such as 127.0.0.1:8081
    #[arg(long = "http", value_name = "ADDR")]
    pub(crate) address: Option<String>,
    /// Want the token in this file from everybody; required where others than this machine reach the address
    #[arg(long = "http-token-file", value_name = "FILE", requires = "address")]
    pub(crate) token_file: Option<PathBuf>,
    /// Certificate chain in PEM: encrypt requests and answers
    #[arg(
        long = "http-certificate",
        value_name = "FILE",
        requires = "address",
        requires = "certificate_key"
    )]
    pub(crate) certificate: Option<PathBuf>,
    /// Private key of the certificate in PEM
    #[arg(
        long = "http-certificate-key",
        value_name = "FILE",
        requires = "certificate"
    )]
    pub(crate) certificate_key: Option<PathBuf>,
    /// A name by which clients reach this host, beside addresses and localhost; may be repeated
    #[arg(long = "http-host", value_name = "NAME", requires = "address")]
    pub(crate) hosts: Vec<String>,
    /// Let nothing be changed from there
    #[arg(long = "http-read-only", requires = "address")]
    pub(crate) read_only: bool,
    /// A directory or URL below which clients may have savepoints written; may be repeated
    #[arg(long = "http-savepoint-dir", value_name = "DIR", requires = "address")]
    pub(crate) savepoint_dirs: Vec<String>,
}

/// Which job, with which overrides.
#[derive(Clone, Debug, Args)]
pub(crate) struct JobArguments {
    /// The job file
    #[arg(value_name = "JOB.toml")]
    pub(crate) file: PathBuf,
    /// Run each operator's build command first
    #[arg(long)]
    pub(crate) build: bool,
    /// Parallelism of the job, in place of the job file's
    #[arg(short, long, value_name = "N")]
    pub(crate) parallelism: Option<u32>,
    /// Serve the REST API, metrics and web page on this address, such as 127.0.0.1:8081; sets http.address
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<String>,
    /// Set a key of the job file, e.g. -D checkpoint.interval=500ms or -D operator.count.parallelism=2;
    /// keys of [checkpoint] and [restart] also under Flink's names
    #[arg(short = 'D', value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Global configuration: defaults for job.state-backend, [checkpoint] and [restart], also under Flink's names
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// Which capsules, and what to try them with.
#[derive(Clone, Debug, Args)]
pub(crate) struct Replay {
    /// Files with a capsule on each line, as a sink of dead letters writes them
    #[arg(value_name = "CAPSULE", required = true)]
    pub(crate) files: Vec<PathBuf>,
    /// Only the capsule on this line of each file, counted from 1
    #[arg(long, value_name = "N")]
    pub(crate) line: Option<usize>,
    /// Another component in place of the job file's, such as one in which the mistake is mended
    #[arg(long, value_name = "FILE")]
    pub(crate) component: Option<PathBuf>,
    /// The job file, where it is not any more at the place that the capsule names
    #[arg(long, value_name = "JOB.toml")]
    pub(crate) job: Option<PathBuf>,
    /// Set a key of the job file, as for `run`
    #[arg(short = 'D', value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Global configuration, as for `run`
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

/// Where a job starts from.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct RestoreArguments {
    /// Resume from a checkpoint: its _metadata file or directory, a job directory (newest checkpoint
    /// in it), each as a path, file://, s3://, az://, gs:// or hdfs:// URL, or `latest` (newest one of this job)
    #[arg(
        short = 's',
        long = "from-savepoint",
        visible_alias = "from",
        visible_alias = "from-checkpoint",
        value_name = "PATH"
    )]
    pub(crate) from: Option<String>,
    /// Resume from this job's latest checkpoint if it has one, otherwise start fresh
    #[arg(long, conflicts_with = "from")]
    pub(crate) resume: bool,
    /// Wait as long as another process runs the job, and take over when it is gone; implies `--resume`, and `-s`
    /// counts only if the job has never run. Checkpoints, inputs and outputs must be shared by both
    #[arg(long, conflicts_with_all = ["fresh", "rewind", "drop_state", "map_operator"])]
    pub(crate) standby: bool,
    /// Give up an earlier run that did not finish: its checkpoints are deleted when the first new one
    /// completes
    #[arg(long, conflicts_with = "resume")]
    pub(crate) fresh: bool,
    /// Go back to a checkpoint after which output was published, and delete the newer checkpoints: what
    /// happens to that output
    #[arg(long, value_name = "MODE", value_enum)]
    pub(crate) rewind: Option<Rewind>,
    /// What may become of state that does not fit.
    #[command(flatten)]
    pub(crate) upgrade: UpgradeArguments,
    /// Start even if all input was ended before the checkpoint (`host stop --drain`): operators have seen the end of
    /// their inputs, and see it again
    #[arg(long)]
    pub(crate) allow_drained: bool,
    /// Who owns the checkpoint that the job starts from
    #[arg(long, value_name = "MODE", value_enum)]
    pub(crate) claim_mode: Option<ClaimMode>,
    /// When the chosen checkpoint is corrupt, use the newest good older one
    #[arg(long)]
    pub(crate) fallback: bool,
}

/// What may become of state that does not fit.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct UpgradeArguments {
    /// Start even if the checkpoint holds state that the job does not declare, and drop that state;
    /// prepared output is still published
    #[arg(short = 'n', long)]
    pub(crate) allow_non_restored_state: bool,
    /// Drop this state of the checkpoint, by its names there. If the job declares it, it starts empty. May be given
    /// several times
    #[arg(long, value_name = "OPERATOR/STATE", value_parser = dropped_state)]
    pub(crate) drop_state: Vec<(String, String)>,
    /// What is OLD in the checkpoint is NEW in the job, which goes on with its state. Also for sources and sinks; may
    /// be given several times
    #[arg(long, value_name = "OLD=NEW", value_parser = mapped_operator)]
    pub(crate) map_operator: Vec<(String, String)>,
}

/// Ids have no slash, names of states may.
fn dropped_state(text: &str) -> Result<(String, String), String> {
    match text.split_once('/') {
        Some((operator, state)) if !operator.is_empty() && !state.is_empty() => {
            Ok((operator.to_owned(), state.to_owned()))
        }
        _ => Err("the id of an operator, a slash and the name of a state are expected".to_owned()),
    }
}

fn mapped_operator(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if old == new => {
            Err("it has the same id on both sides, and no effect".to_owned())
        }
        Some((old, new)) if !old.is_empty() && !new.is_empty() => {
            Ok((old.to_owned(), new.to_owned()))
        }
        _ => Err("the id in the checkpoint, `=` and the id in the job are expected".to_owned()),
    }
}

/// What happens to output that was published after the checkpoint that a job goes back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rewind {
    /// Every sink removes it first.
    Withdraw,
    /// It stays, and is written again.
    Repeat,
}

impl From<Rewind> for RewindMode {
    fn from(rewind: Rewind) -> Self {
        match rewind {
            Rewind::Withdraw => Self::Withdraw,
            Rewind::Repeat => Self::Repeat,
        }
    }
}

/// Who owns the checkpoint that a job starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClaimMode {
    /// The user who took it: the job never changes or deletes it.
    NoClaim,
    /// The job: it is deleted once it is not needed any more.
    Claim,
}

/// `host checkpoints`.
#[derive(Debug, Subcommand)]
pub(crate) enum Checkpoints {
    /// List the checkpoints below a directory
    List(Target),
    /// Show what a checkpoint holds: operators, states, source positions
    Show(Target),
    /// Read every byte of a checkpoint, or of all below a directory, and check it
    Verify(Target),
    /// Say what changed from one checkpoint to another: operators, states, keys, source positions
    Diff(Diff),
    /// Print every entry of the keyed state of a checkpoint
    Export(Export),
    /// Remove what crashes left: half-written checkpoints, unfinished and unreferenced files
    ///
    /// The jobs must not be running. Nothing is touched that a completed checkpoint may need, damaged or
    /// not, here or in another job directory beside it.
    Gc(Gc),
    /// Remove a job's whole directory: its checkpoints and the record of its runs
    ///
    /// Refused while a host owns the directory, and if something in it is not a checkpoint's or is
    /// needed by another job's checkpoint.
    Forget(Target),
}

/// `host savepoints`.
#[derive(Debug, Subcommand)]
pub(crate) enum Savepoints {
    /// Remove savepoints: of each its own files, and its directory if nothing else is in it
    ///
    /// Refused for what is no valid savepoint, such as a job's checkpoint. A job that was started from a
    /// savepoint needs it until its own first checkpoint is complete.
    Dispose(Dispose),
}

/// `host savepoints dispose`.
#[derive(Debug, Args)]
pub(crate) struct Dispose {
    /// A savepoint's directory, its _metadata file, or a file://, s3://, az://, gs:// or hdfs:// URL of one
    #[arg(value_name = "PATH", required = true)]
    pub(crate) places: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `host checkpoints diff`.
#[derive(Debug, Args)]
pub(crate) struct Diff {
    /// The first checkpoint, as for `-s`
    #[arg(value_name = "A")]
    pub(crate) before: String,
    /// The second one
    #[arg(value_name = "B")]
    pub(crate) after: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `host checkpoints export`.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// A checkpoint, as for `-s`
    #[arg(value_name = "PATH")]
    pub(crate) place: String,
    /// Only of this operator
    #[arg(long, value_name = "ID")]
    pub(crate) operator: Option<String>,
    /// Only of states with this name
    #[arg(long, value_name = "NAME")]
    pub(crate) state: Option<String>,
    /// How entries are written
    #[arg(long, value_enum, default_value_t = ExportFormat::JsonLines)]
    pub(crate) format: ExportFormat,
}

/// How exported entries are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// An object a line.
    JsonLines,
    /// With a header line.
    Csv,
}

/// `host checkpoints gc`.
#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// A job directory, or a directory of job directories
    #[arg(value_name = "PATH")]
    pub(crate) place: String,
    /// Only say what would be removed
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Leave alone what is younger than this
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    pub(crate) older_than: Duration,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Which checkpoints.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// A directory, a _metadata file, or a file://, s3://, az://, gs:// or hdfs:// URL of one
    #[arg(value_name = "PATH")]
    pub(crate) place: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `host list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// `host top`.
#[derive(Debug, Args)]
pub(crate) struct Top {
    /// How often: `500ms`, `2s`
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = humantime::parse_duration)]
    pub(crate) interval: Duration,
    /// Show it once
    #[arg(long)]
    pub(crate) once: bool,
}

/// Which running job.
#[derive(Debug, Args)]
pub(crate) struct RunningJob {
    /// A job's name, or its id as `host list` shows it
    #[arg(value_name = "JOB")]
    pub(crate) job: String,
    /// Only a job of this process
    #[arg(long, value_name = "PID")]
    pub(crate) process: Option<u32>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// How a job is asked for something.
#[derive(Debug, Args)]
pub(crate) struct Asking {
    /// Do not wait until it is done: print the request's id, and end
    #[arg(long)]
    pub(crate) detach: bool,
    /// At most 64 letters, digits, - and _: the same operation under the same id is done once, however often it is
    /// asked for; a fresh random one by default
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<String>,
}

/// `host checkpoint` and `host cancel`.
#[derive(Debug, Args)]
pub(crate) struct PlainOperation {
    /// Of which job.
    #[command(flatten)]
    pub(crate) job: RunningJob,
    /// How.
    #[command(flatten)]
    pub(crate) asking: Asking,
}

/// `host savepoint`.
#[derive(Debug, Args)]
pub(crate) struct Savepoint {
    /// Of which job.
    #[command(flatten)]
    pub(crate) job: RunningJob,
    /// In which directory the savepoint gets one of its own, as a path, file://, s3://, az://, gs:// or hdfs:// URL; the job file's
    /// checkpoint.savepoint-dir by default
    #[arg(value_name = "DIR")]
    pub(crate) directory: Option<String>,
    /// How.
    #[command(flatten)]
    pub(crate) asking: Asking,
}

/// `host stop`.
#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Which job.
    #[command(flatten)]
    pub(crate) job: RunningJob,
    /// End all input first, as if there were no more records
    #[arg(long)]
    pub(crate) drain: bool,
    /// Take a savepoint too, in this directory: a path, file://, s3://, az://, gs:// or hdfs:// URL; the job file's
    /// checkpoint.savepoint-dir by default
    #[arg(long, value_name = "DIR")]
    pub(crate) savepoint_path: Option<String>,
    /// How.
    #[command(flatten)]
    pub(crate) asking: Asking,
}

/// `host rescale`.
#[derive(Debug, Args)]
pub(crate) struct Rescale {
    /// Which job.
    #[command(flatten)]
    pub(crate) job: RunningJob,
    /// The new parallelism of the job
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) parallelism: u32,
    /// How.
    #[command(flatten)]
    pub(crate) asking: Asking,
}

/// `host interval`.
#[derive(Debug, Args)]
pub(crate) struct Interval {
    /// Of which job.
    #[command(flatten)]
    pub(crate) job: RunningJob,
    /// From the start of one checkpoint to the next, e.g. 5s, or `none`: no periodic checkpoints
    #[arg(value_name = "INTERVAL", value_parser = checkpoint_interval)]
    pub(crate) interval: CheckpointInterval,
    /// How.
    #[command(flatten)]
    pub(crate) asking: Asking,
}

/// How often checkpoints are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CheckpointInterval {
    /// Not periodically.
    None,
    /// Milliseconds from the start of one to the next, at least one.
    Milliseconds(u64),
}

fn checkpoint_interval(text: &str) -> Result<CheckpointInterval, String> {
    if text == "none" {
        return Ok(CheckpointInterval::None);
    }
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match u64::try_from(duration.as_millis()) {
        Ok(0) => Err("at least 1ms; `none` for no periodic checkpoints".to_owned()),
        Ok(milliseconds) => Ok(CheckpointInterval::Milliseconds(milliseconds)),
        Err(_) => Err("too long".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_checkpoint_can_be_named_in_four_ways() {
        for option in ["-s", "--from-savepoint", "--from", "--from-checkpoint"] {
            let cli = Cli::try_parse_from(["host", "run", option, "cp/chk-7", "job.toml"]).unwrap();
            let Command::Run(run) = cli.command else {
                panic!("`run` is run")
            };
            assert_eq!(run.restore.from.as_deref(), Some("cp/chk-7"), "{option}");
        }
    }

    #[test]
    fn options_may_stand_on_either_side_of_the_job_file() {
        let line = "host run -n --claim-mode claim job.toml -p 3 -D a=b -Dc.d=e=f --json --resume";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Run(run) = cli.command else {
            panic!("`run` is run")
        };
        assert_eq!(run.job.overrides, ["a=b", "c.d=e=f"]);
        assert_eq!(run.job.parallelism, Some(3));
        assert_eq!(run.restore.claim_mode, Some(ClaimMode::Claim));
        assert!(run.json && run.restore.resume && run.restore.upgrade.allow_non_restored_state);
    }

    #[test]
    fn c89_states_are_dropped_and_operators_mapped_by_name() {
        let line = "host run --resume --drop-state a/b --drop-state a/timers/event-time --map-operator x=y job.toml";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Command::Run(run) = cli.command else {
            panic!("`run` is run")
        };
        let pair = |one: &str, other: &str| (one.to_owned(), other.to_owned());
        let upgrade = run.restore.upgrade;
        assert_eq!(
            upgrade.drop_state,
            [pair("a", "b"), pair("a", "timers/event-time")]
        );
        assert_eq!(upgrade.map_operator, [pair("x", "y")]);
        for refused in [
            "host run --drop-state a job.toml",
            "host run --drop-state a/ job.toml",
            "host run --map-operator a job.toml",
            "host run --map-operator a= job.toml",
            "host run --map-operator a=a job.toml",
            "host run --standby --map-operator a=b job.toml",
            "host run --standby --drop-state a/b job.toml",
            "host check --json job.toml",
        ] {
            assert!(
                Cli::try_parse_from(refused.split(' ')).is_err(),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_running_job_is_asked_by_name_and_its_options() {
        let line = "host stop orders --drain --savepoint-path sp --process 7 --detach --request-id x-1 --json";
        let Command::Stop(stop) = Cli::try_parse_from(line.split(' ')).unwrap().command else {
            panic!("`stop` is stop")
        };
        assert_eq!(
            (stop.job.job.as_str(), stop.job.process),
            ("orders", Some(7))
        );
        assert_eq!(stop.savepoint_path.as_deref(), Some("sp"));
        assert!(stop.drain && stop.job.json && stop.asking.detach);
        assert_eq!(stop.asking.request_id.as_deref(), Some("x-1"));
        for refused in [
            "host rescale orders -p 0",
            "host rescale orders",
            "host interval orders 0s",
            "host interval orders soon",
            "host cancel",
        ] {
            assert!(
                Cli::try_parse_from(refused.split(' ')).is_err(),
                "{refused}"
            );
        }
    }

    #[test]
    fn an_interval_is_a_duration_or_none() {
        let parsed = |text| checkpoint_interval(text);
        assert_eq!(parsed("none"), Ok(CheckpointInterval::None));
        assert_eq!(
            parsed("1m 5s"),
            Ok(CheckpointInterval::Milliseconds(65_000))
        );
        assert!(parsed("999us").unwrap_err().contains("at least 1ms"));
    }
}
