//! Black-box tests: the `host` binary, real components, real files, real signals.
//!
//! Goal: hold the promises that a user relies on, each by what can be seen from outside: output
//! files, checkpoint directories, exit codes, messages. Method: a job in a directory of its own,
//! disturbed, and its output compared with that of an undisturbed run or of an independent tool; each
//! test also checks that the disturbance really happened. A test of the conformance list carries its
//! number (`c36_…`). No test measures time.

#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_macros,
    clippy::too_many_lines,
    reason = "tests wait, print and measure"
)]

// What the tests are made of.
mod host; // running the binary, watching it, killing it
#[path = "../../crates/wasm/src/tests/guests.rs"]
mod modules; // the smallest operators, written as core modules; the host's own tests have them too
#[path = "../../crates/wasm/src/tests/scripts.rs"]
mod scripts; // records for an operator that does what they say; the host's own tests have them too
mod jobs; // job files, put together from their parts
mod oracle; // the right answers, from elsewhere
mod plugins; // the components of plugins/
mod scene; // a directory for a test alone
mod servers; // S3, Azure, Google (a stub) and HDFS on loopback

// The tests.
mod bad_lines; // lines that a source cannot read
mod bad_records; // records that an operator cannot process
mod budget; // what one call of a guest may cost
mod checkpoints; // looking at checkpoints without their job
mod checkpointing; // checkpoints that fail, and what is reported of them
mod claim; // who owns what a job starts from
mod cold; // state larger than memory
mod dropped; // sinks that the job no longer has
mod events; // what programs read: --json
mod event_time; // what time it is in the records, and who holds it
mod control; // a running job is asked for things
mod control_at_once; // a running job is asked at an unlucky moment
mod control_storm; // the same at random moments, again and again
mod configuration; // --config, $HIGHWATER_CONFIG, --build
mod examples; // every folder of examples/ does what its README says
mod failures; // checkpoints that fail
mod flooding; // keys that were chosen to collide
mod gate; // an operator that waits until the test lets it go on
mod graph; // jobs that are more than a chain
mod guests; // traps, limits, grants, components that are none
mod harness; // what authors of operators test with
mod hints; // messages that say what to do
mod hostile; // checkpoints that were made to deceive
mod incremental; // checkpoints that hold what changed since the one before
mod inputs; // a job that resumes, and input that is not what it was
mod kills; // hundreds of kills at random moments
mod languages; // operators that are not in Rust
mod life; // checkpoints while a job runs
mod logging; // what is said on standard error, as text and as JSON
mod loading; // components of strangers: what loading them costs, and what they say
mod messages; // what a run says of its input, its output and its end
mod modes; // exactly-once, at-least-once, and when checkpoints are taken
mod network; // what a component may reach
mod permissions; // who may read what is on disk, and what is not ours
mod pipes; // records that come by stdin and go by stdout
mod placement; // state in metadata or in files
mod output; // what becomes of output that is taken, changed or cannot be written
mod ownership; // one job directory, several hosts
mod power; // power losses at every step
mod reader; // another program reads what the host writes
mod readme; // the README keeps its word
mod records; // how input is written: packed, as JSON, with event time
mod refused; // what users get wrong, and the messages
mod reports; // what the host says: restores, corruption, restarts
mod restore; // from which checkpoint, into what
mod rewind; // a start that takes back what came later
mod retention; // what is left when a job ends, and how it is ended
mod rows; // rows and the columns that are declared for them
mod monitoring; // Prometheus reads the metrics, the dashboard and the alerts; OpenTelemetry gets them
mod page; // the web page in a browser
mod rest; // the REST API, the metrics and the web page
mod remote; // checkpoints in Azure, HDFS and a stub of Google's
mod s3; // checkpoints in a bucket
mod terminal; // what others wrote does not steer a terminal
mod timers; // they fire in order, each once, whatever happens
mod ttl; // entries expire, and do not come back
mod watched; // new files while the job runs
mod windows; // their results, late records, and what is left of them
mod upgrade; // a job goes on after its operators changed
mod unfinished; // what does not work yet is refused by name, everything else has an effect
mod signals; // a job that is stopped at an unlucky moment
mod secrets; // nobody sees them but the operator that they are for
mod shapes; // input that is broken, or made to hurt
mod serve; // several jobs in one host
mod soak; // many checkpoints: nothing grows
mod standby; // a process that waits for the owner of a job directory
mod time_sql; // windows give what an SQL engine gives
mod storage; // where checkpoints are, and what they consist of
mod subtask_state; // lists and maps of a subtask, at any parallelism
mod versions; // checkpoints of every format version
mod warnings; // settings that switch protection off
mod worlds; // components of every version of the contract
mod tidy; // what the sources must be like
