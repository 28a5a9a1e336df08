//! The stdin source: lines, CSV or JSON lines from the process's standard input.
//!
//! What came through a pipe is gone: stdin cannot be read again. A restart within the process goes on
//! after the last record that was handed over, so the records between the last checkpoint and the
//! failure are lost; so are they when a new process resumes, which continues with what comes. The
//! source says so in its restore report and in a warning.
//!
//! A thread reads, because nobody knows when input comes; a bounded channel holds it up when the job is
//! slower. Thread and decoder belong to the factory and outlive the attempts of a job.

use std::io::{self, ErrorKind, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use dataflow::Batch;
use formats::blocks::Blocks;
use formats::decoder::Decoder;
use formats::outcome::{Counts, DecodeError, Stopped};
use formats::plan::Plan;
use formats::read_as::ReadAs;
use job_file::options::Options;
use job_file::problem::Problem;
use operator::source::{Part, Unreadable, Waker};
use operator::text::counted;
use operator::{
    BoxError, InputChanged, Permanent, Source, SourceFactory, SourceStatus, SubtaskContext,
};
use serde::{Deserialize, Serialize};

use super::changed::Changed;
use super::connector::{Clock, PreparedSource, SourceConnector, SourceContext, read_and_prepare};
use super::event_time::{EventTime, EventTimes};
use super::text_options::text_options;

/// How much is read at once, and how many such blocks wait for the source.
const BLOCK: usize = 64 << 10;
const BLOCKS_WAITING: usize = 16;

/// There is one standard input, so one source can read it.
static STDIN_IS_TAKEN: AtomicBool = AtomicBool::new(false);

/// The connector `stdin`.
pub(crate) const CONNECTOR: SourceConnector = SourceConnector {
    name: "stdin",
    prepare,
};

fn prepare(options: Options, context: &SourceContext<'_>) -> Result<PreparedSource, Vec<Problem>> {
    read_and_prepare(options, |options: &StdinOptions| {
        let factory = options.prepare(&context.clock)?;
        Ok(PreparedSource {
            port: factory.plan().port(),
            factory: Arc::new(factory),
            bounded: false,
            max_parallelism: Some(1),
            reads_text: true,
            selects: None,
            options: Options::effective(&options.effective()),
        })
    })
}

text_options! {
    /// Options of the connector `stdin`.
    struct StdinOptions {}
}

/// What has one split cannot be ahead of others.
const ALONE: &[(&str, &str)] = &[("max-drift", "standard input is one split")];

impl StdinOptions {
    /// Checks the options. Nothing is read: the columns of CSV are known only when the job runs.
    ///
    /// # Errors
    /// Everything that keeps the source from starting.
    pub(crate) fn prepare(&self, clock: &Clock) -> Result<StdinFactory, Vec<Problem>> {
        let mut problems = Vec::new();
        let limits = self.limits().read(self.format, &mut problems);
        let plan = self.plan(None, limits, &mut problems);
        let policy = self.policy(ALONE, &mut problems);
        let event_times = policy.map(|policy| EventTimes::new(policy, Clock::clone(clock)));
        match plan {
            Some(plan) if problems.is_empty() => {
                let factory = StdinFactory::new(plan, self.changed, take_stdin);
                Ok(StdinFactory {
                    event_times,
                    ..factory
                })
            }
            _ => Err(problems),
        }
    }
}

fn take_stdin() -> Result<Box<dyn Read + Send>, String> {
    if STDIN_IS_TAKEN.swap(true, Ordering::Relaxed) {
        return Err("standard input is already read by another source".to_owned());
    }
    Ok(Box::new(io::stdin()))
}

/// Makes stdin sources, one after the other, that share the reader.
pub(crate) struct StdinFactory {
    plan: Arc<Plan>,
    changed: Changed,
    open: fn() -> Result<Box<dyn Read + Send>, String>,
    /// How watermarks are made, if they are.
    event_times: Option<EventTimes>,
    stream: Arc<Mutex<Option<Stream>>>,
    /// Whom the reading thread tells that there is something.
    waker: Arc<Mutex<Option<Waker>>>,
}

/// What of the input was handed over, and what waits.
struct Stream {
    blocks: Blocks,
    decoder: Decoder,
    counts: Counts,
    /// Whether the start of the stream (byte order mark, header) was read.
    begun: bool,
    /// The highest event time of what was handed over, where watermarks are made.
    highest: Option<i64>,
    /// Why what comes next is no record, while its end has not come.
    leaving_out: Option<String>,
}

/// What a checkpoint records.
#[derive(Debug, Serialize, Deserialize)]
struct Position {
    /// Records handed over, in this process and in those that it resumed.
    records: u64,
    /// What they were read as. A position that was written before this was recorded has none.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "read-as")]
    read_as: Option<ReadAs>,
    /// The highest event time of them. `None` if there were none, or no watermarks were made.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        rename = "highest-timestamp"
    )]
    highest: Option<i64>,
}

impl StdinFactory {
    fn new(
        plan: Plan,
        changed: Changed,
        open: fn() -> Result<Box<dyn Read + Send>, String>,
    ) -> Self {
        Self {
            plan: Arc::new(plan),
            changed,
            open,
            event_times: None,
            stream: Arc::default(),
            waker: Arc::default(),
        }
    }

    /// What to make of the input.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "it waits in a read that nobody can interrupt, and ends with the process"
    )]
    fn start(&self) -> Result<Stream, BoxError> {
        let input = (self.open)()?;
        let (sender, receiver) = sync_channel(BLOCKS_WAITING);
        let waker = Arc::clone(&self.waker);
        // Detached: it waits in a read that nobody can interrupt, and ends with the process.
        thread::Builder::new()
            .name("stdin".to_owned())
            .spawn(move || read_all(input, &sender, &waker))?;
        let incoming = Incoming {
            receiver,
            block: Vec::new(),
            read: 0,
        };
        Ok(Stream {
            blocks: Blocks::new(Box::new(incoming), 0, self.plan.limits.record_bytes),
            decoder: Decoder::new(Arc::clone(&self.plan)),
            counts: Counts::default(),
            begun: false,
            highest: None,
            leaving_out: None,
        })
    }
}

fn read_all(
    mut input: Box<dyn Read + Send>,
    sender: &SyncSender<io::Result<Vec<u8>>>,
    waker: &Mutex<Option<Waker>>,
) {
    loop {
        let mut block = vec![0; BLOCK];
        let read = match input.read(&mut block) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Ok(count) => {
                block.truncate(count);
                Ok(block)
            }
            Err(error) => Err(error),
        };
        let last = read.as_ref().map_or(true, Vec::is_empty);
        // Nobody listens any more when the job is gone.
        if sender.send(read).is_err() {
            return;
        }
        let waker = lock(waker).clone();
        if let Some(waker) = waker {
            waker.wake();
        }
        if last {
            return;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the lock protects is whole between any two calls; a subtask that panicked elsewhere is
    // no reason to lose the input.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The reading end of the channel. An empty block stands for the end of the input.
struct Incoming {
    receiver: Receiver<io::Result<Vec<u8>>>,
    block: Vec<u8>,
    read: usize,
}

impl Read for Incoming {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.read == self.block.len() {
            self.block = match self.receiver.try_recv() {
                Ok(block) => block?,
                Err(TryRecvError::Empty) => return Err(ErrorKind::WouldBlock.into()),
                Err(TryRecvError::Disconnected) => return Ok(0),
            };
            self.read = 0;
        }
        let count = buffer.len().min(self.block.len() - self.read);
        buffer[..count].copy_from_slice(&self.block[self.read..self.read + count]);
        self.read += count;
        Ok(count)
    }
}

impl SourceFactory for StdinFactory {
    fn create(
        &self,
        context: &SubtaskContext,
        restored: Option<&[Part]>,
    ) -> Result<Box<dyn Source>, BoxError> {
        if context.parallelism != 1 {
            return Err(format!(
                "stdin is read by one subtask, not by {}",
                context.parallelism
            )
            .into());
        }
        *lock(&self.waker) = Some(context.waker.clone());
        let mut stream = lock(&self.stream);
        let recorded = match restored {
            Some(parts) => Some(recorded(parts)?),
            None => None,
        };
        match (&mut *stream, recorded) {
            (Some(stream), recorded) => {
                let lost = stream.counts.records.saturating_sub(recorded.unwrap_or(0));
                if lost > 0 {
                    tracing::warn!(
                        source = %context.operator,
                        "stdin cannot be read again: what it had read since the last checkpoint is lost, {}",
                        counted(lost, "record")
                    );
                }
            }
            (None, recorded) => {
                let mut started = self.start()?;
                if let Some(records) = recorded {
                    started.counts.records = records;
                    tracing::warn!(
                        source = %context.operator,
                        "stdin cannot be read again: what an earlier run read after record {records} is lost"
                    );
                }
                *stream = Some(started);
            }
        }
        let recorded = restored.and_then(|parts| positions(parts).ok());
        let recorded = recorded.into_iter().flatten().map(|part| part.highest);
        let highest = stream.iter().map(|stream| stream.highest).chain(recorded);
        let highest = highest.max().flatten();
        stream
            .iter_mut()
            .for_each(|stream| stream.highest = highest);
        let event_time = self.event_times.as_ref().map(|it| {
            let mut event_time = it.of(context);
            event_time.marks.add(highest);
            event_time
        });
        Ok(Box::new(StdinSource {
            event_time,
            stream: Arc::clone(&self.stream),
            read_as: self.plan.read_as.clone(),
            leaves_out: false,
            unreadable: None,
        }))
    }

    fn compare(&self, source: &str, restored: &[Part]) -> Result<(), InputChanged> {
        // A position that cannot be read: creating the source tells.
        let positions = restored
            .iter()
            .filter_map(|part| Position::deserialize(part).ok());
        let mut differences = Vec::new();
        for position in positions.filter(|position| position.records > 0) {
            if let Some(was) = &position.read_as {
                differences.extend(self.plan.read_as.differences(was, position.records));
            }
        }
        match self.changed {
            _ if differences.is_empty() => Ok(()),
            Changed::Refuse => Err(super::changed::refused(
                source,
                differences,
                "set the options back as they were",
            )),
            Changed::Accept => {
                for text in differences {
                    tracing::warn!(source, "accepted: {text}");
                }
                Ok(())
            }
        }
    }

    fn describe_position(&self, restored: &[Part]) -> String {
        describe_position(restored)
            .unwrap_or_else(|| "a position that is not that of stdin".to_owned())
    }
}

/// How far a position is, in words. `None` if it is not that of stdin.
pub(crate) fn describe_position(parts: &[Part]) -> Option<String> {
    let records = counted(recorded(parts).ok()?, "record");
    Some(format!(
        "stdin cannot be read again: continues after {records} with what comes now"
    ))
}

fn recorded(parts: &[Part]) -> Result<u64, BoxError> {
    let positions = positions(parts)?;
    let records = positions.iter().map(|position| position.records);
    Ok(records.fold(0, u64::saturating_add))
}

fn positions(parts: &[Part]) -> Result<Vec<Position>, BoxError> {
    let read = |part: &Part| {
        Position::deserialize(part).map_err(|error| {
            let text = "the snapshot has a position that is not that of stdin";
            format!("{text}: {part}: {error}").into()
        })
    };
    parts.iter().map(read).collect()
}

/// The only split, the first that is added.
const SPLIT: usize = 0;

/// Hands over what has come.
struct StdinSource {
    /// What watermarks are made of, if they are made.
    event_time: Option<EventTime>,
    stream: Arc<Mutex<Option<Stream>>>,
    read_as: ReadAs,
    /// Whether what is no record is left out.
    leaves_out: bool,
    /// What was left out and not taken yet.
    unreadable: Option<Unreadable>,
}

impl Stream {
    fn poll(&mut self, batch: &mut Batch) -> Result<Stopped, DecodeError> {
        if !self.begun {
            let header = self
                .blocks
                .skip_byte_order_mark()
                .map_err(DecodeError::from);
            let header =
                header.and_then(|()| self.decoder.read_header(&mut self.blocks, &mut self.counts));
            match header {
                Err(DecodeError::Read(error)) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok(Stopped::Blocked);
                }
                result => result?,
            };
            self.begun = true;
        }
        self.decoder
            .decode(&mut self.blocks, u64::MAX, batch, &mut self.counts)
    }

    /// Goes on after what is no record for this reason; `None` if its end has not come yet.
    fn leave_out(&mut self, message: String) -> io::Result<Option<Unreadable>> {
        let line = self.counts.lines + 1;
        let Some(text) = self.decoder.leave_out(&mut self.blocks, &mut self.counts)? else {
            self.leaving_out = Some(message);
            return Ok(None);
        };
        Ok(Some(Unreadable {
            message,
            origin: format!("line {line} of standard input"),
            is_whole: text.bytes.len() as u64 == text.len,
            bytes: text.bytes,
        }))
    }
}

impl Source for StdinSource {
    fn poll(&mut self, batch: &mut Batch) -> Result<SourceStatus, BoxError> {
        let mut stream = lock(&self.stream);
        let Some(stream) = &mut *stream else {
            return Ok(SourceStatus::Ended);
        };
        let before = batch.len();
        let unreadable = |error| format!("cannot read standard input: {error}").into();
        let polled = match stream.leaving_out.take() {
            Some(message) => Err(DecodeError::Record(message)),
            None => stream.poll(batch),
        };
        let stopped = match polled {
            Ok(stopped) => stopped,
            Err(DecodeError::Read(error)) => return Err(unreadable(error)),
            // Without a header there is nothing to go on with.
            Err(DecodeError::Record(message)) if self.leaves_out && stream.begun => {
                self.unreadable = stream.leave_out(message).map_err(unreadable)?;
                match self.unreadable {
                    Some(_) => Stopped::Full,
                    None => Stopped::Blocked,
                }
            }
            Err(DecodeError::Record(message)) => {
                let line = stream.counts.lines + 1;
                let message = format!("standard input, line {line}: {message}");
                return Err(Permanent::new(message).into());
            }
        };
        let status = match stopped {
            Stopped::Full => SourceStatus::More,
            Stopped::Blocked => SourceStatus::Idle { until: None },
            Stopped::Ended => SourceStatus::Ended,
        };
        let Some(event_time) = &mut self.event_time else {
            return Ok(status);
        };
        let read = batch.timestamps.get(before..).unwrap_or_default();
        let highest = event_time.read(SPLIT, read);
        stream.highest = stream.highest.max(highest);
        if matches!(stopped, Stopped::Blocked) {
            event_time.marks.silent(SPLIT, event_time.now());
        }
        Ok(event_time.polled(status))
    }

    fn watermark(&self) -> Option<i64> {
        self.event_time.as_ref()?.marks.watermark()
    }

    fn leave_out_unreadable(&mut self) {
        self.leaves_out = true;
    }

    fn take_unreadable(&mut self) -> Option<Unreadable> {
        self.unreadable.take()
    }

    fn is_idle(&self) -> bool {
        let event_time = self.event_time.as_ref();
        event_time.is_some_and(|event_time| event_time.marks.is_idle())
    }

    fn snapshot(&mut self) -> Result<Vec<Part>, BoxError> {
        let (records, highest) = lock(&self.stream)
            .as_ref()
            .map_or((0, None), |stream| (stream.counts.records, stream.highest));
        let position = Position {
            records,
            read_as: Some(self.read_as.clone()),
            highest,
        };
        Ok(vec![serde_json::to_value(position)?])
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::Duration;

    use job_file::options::read_right;

    use super::*;

    fn factory(options: &str, open: fn() -> Result<Box<dyn Read + Send>, String>) -> StdinFactory {
        let options: StdinOptions = read_right(options);
        let clock: Clock = Arc::new(|| 0);
        StdinFactory {
            open,
            ..options.prepare(&clock).unwrap()
        }
    }

    fn drain(
        source: &mut dyn Source,
        woken: &Receiver<()>,
    ) -> Result<Vec<(String, String)>, String> {
        let mut records = Vec::new();
        loop {
            let mut batch = Batch::default();
            let status = source.poll(&mut batch).map_err(|error| error.to_string())?;
            let text = |cell: &[u8]| String::from_utf8(cell.to_vec()).unwrap();
            for index in 0..batch.len() {
                let key = if batch.is_keyed() {
                    text(batch.keys.get(index))
                } else {
                    String::new()
                };
                records.push((key, text(batch.values.get(index))));
            }
            match status {
                SourceStatus::More => {}
                SourceStatus::Idle { .. } => woken.recv_timeout(Duration::from_secs(60)).unwrap(),
                SourceStatus::Ended => return Ok(records),
            }
        }
    }

    fn context(parallelism: u32) -> (SubtaskContext, Receiver<()>) {
        let (sender, receiver) = channel();
        let waker = Waker::new(move || sender.send(()).unwrap_or(()));
        let context = SubtaskContext {
            operator: "in".to_owned(),
            subtask: 0,
            parallelism,
            job: operator::JobIdentity::default(),
            run: "00000000".to_owned(),
            generation: 0,
            attempt: 0,
            waker,
        };
        (context, receiver)
    }

    /// Gives out its text a byte at a time.
    struct Dripping(&'static [u8]);

    impl Read for Dripping {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let count = self.0.len().min(1);
            buffer[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    #[test]
    fn records_come_in_whole_however_the_bytes_drip() {
        let factory = factory("format = \"csv\"\nkey = \"k\"", || {
            Ok(Box::new(Dripping(
                "\u{feff}k,v\r\na,1\r\n\"b,c\",\"x\ny\"\r\nd,".as_bytes(),
            )))
        });
        let (context, woken) = context(1);
        let mut source = factory.create(&context, None).unwrap();
        let records = drain(&mut *source, &woken).unwrap();
        let expected = [("a", "a,1"), ("\"b,c\"", "\"b,c\",\"x\ny\""), ("d", "d,")];
        assert_eq!(
            records,
            expected.map(|(key, value)| (key.to_owned(), value.to_owned()))
        );
        assert_eq!(
            source.snapshot().unwrap(),
            [serde_json::json!({
                "records": 3,
                "read-as": { "format": "csv", "key": ["k"], "timestamp": null },
            })]
        );
    }

    #[test]
    fn a_restart_goes_on_behind_what_was_handed_over() {
        let factory = factory("format = \"lines\"", || {
            let text: String = (0..3000).map(|n| format!("{n}\n")).collect();
            Ok(Box::new(io::Cursor::new(text.into_bytes())))
        });
        let (context, woken) = context(1);
        let mut batch = Batch::default();
        let mut first = factory.create(&context, None).unwrap();
        while batch.is_empty() {
            first.poll(&mut batch).unwrap();
        }
        drop(first);
        let parts = [serde_json::json!({ "records": 0 })];
        let mut second = factory.create(&context, Some(&parts)).unwrap();
        let rest = drain(&mut *second, &woken).unwrap();
        assert_eq!(rest.first().unwrap().1, batch.len().to_string());
        assert_eq!(rest.len() + batch.len(), 3000);
        assert!(
            factory
                .describe_position(&parts)
                .contains("cannot be read again")
        );
    }

    #[test]
    fn a_broken_line_is_named_and_stdin_has_one_subtask() {
        let factory = factory("format = \"json-lines\"", || {
            Ok(Box::new(Dripping(b"{}\n\n{]\n")))
        });
        let (two, _woken) = context(2);
        assert!(factory.create(&two, None).is_err());
        let (one, woken) = context(1);
        let mut source = factory.create(&one, None).unwrap();
        let error = drain(&mut *source, &woken).unwrap_err();
        assert!(
            error.starts_with("standard input, line 3: is not JSON"),
            "{error}"
        );
    }
}
