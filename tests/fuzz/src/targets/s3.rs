//! Answers of an S3 server: a store and a storage against a server on loopback that is right but for what the
//! input says. The first byte chooses what is done, each three bytes after it are a fault: which request, what, how.
//! The server keeps what it really has, which no fault changes, and that is the oracle.
//!
//! - Each call ends with an error or a right result, in bounded memory.
//! - A checkpoint that completed is there, whole; what is read of one is what was written.
//! - A put that succeeded has made the object, with those bytes; it never changes one that is there.
//! - Unless the answers themselves lie (a server that sends other bytes, with right headers, cannot be seen through
//!   below the checksums of a checkpoint): a read gives the bytes that are there, a listing all names and no
//!   others, page by page, and what was deleted is gone.
//!
//! Where answers are broken the client gives up within milliseconds, and it is made once, so that hundreds of
//! inputs run in a second.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::Duration;

use checkpoint::metadata::{Kind, Metadata, Operator, Role, State, Subtask};
use checkpoint::storage::{CloudStorage, MemoryStorage, Remote, Storage};
use checkpoint::store::Options;
use checkpoint::{CheckpointStore, Completed, Error, verify};
use dataflow::state::{KeyedState, StateDescriptor, StateKind};
use dataflow::{CheckpointId, KeyGroups};

use super::Target;

pub(super) const TARGET: Target = Target {
    name: "s3",
    run,
    words: &[
        b"\x00\x01\x00",
        b"\x01\x02\x10",
        b"\x02\x03\x01",
        b"\x03\x04\xff",
        b"\x80\x09\x00",
        b"\x80\x0a\x40",
        b"\x81\x07\x00",
        b"\x82\x0e\x05",
        b"\xff\x06\x00",
    ],
    bytes_max: 36,
    memory_max: 64 << 20,
};

/// A call takes at most half of this where there are faults. What becomes of it then is right or an error, so that a
/// slow machine breaks no promise.
const PATIENCE: Duration = Duration::from_millis(120);
/// Where the server is right.
const LONG_PATIENCE: Duration = Duration::from_secs(60);

/// Objects and directories on a page of a listing.
const PAGE: usize = 3;

/// Faults that give other bytes or names than those that are there, with headers that fit.
const LIES: [u8; 8] = [1, 6, 7, 8, 9, 11, 13, 14];

/// A bucket that stays right, whatever is answered.
#[derive(Default)]
struct Server {
    objects: Mutex<BTreeMap<String, Object>>,
    faults: Mutex<Vec<Fault>>,
    requests: AtomicUsize,
    port: OnceLock<u16>,
}

#[derive(Clone)]
struct Object {
    bytes: Vec<u8>,
    token: String,
}

#[derive(Clone, Copy)]
struct Fault {
    /// The request; from 128 on every one from there.
    at: u8,
    what: u8,
    how: u8,
}

fn server() -> &'static Arc<Server> {
    static SERVER: OnceLock<Arc<Server>> = OnceLock::new();
    SERVER.get_or_init(|| {
        let server = Arc::new(Server::default());
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback is there");
        let port = listener.local_addr().expect("it is bound").port();
        let _ = server.port.set(port);
        let served = Arc::clone(&server);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = Arc::clone(&served);
                // An error is the end of the connection, as it is for every server.
                thread::spawn(move || drop(server.serve(&stream)));
            }
        });
        server
    })
}

struct Request {
    method: String,
    path: String,
    query: HashMap<String, String>,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// What `Content-Length` says beyond the body's length.
    length_off: i64,
    closes: bool,
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            length_off: 0,
            closes: false,
        }
    }

    fn error(status: u16, code: &str) -> Self {
        Self::new(
            status,
            format!(
                "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>no</Message></Error>"
            ),
        )
    }
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let code = after
            .get(..2)
            .and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        match (byte, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &after[2..];
            }
            (byte, _) => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn request(reader: &mut BufReader<&TcpStream>) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace();
    let (method, target) = (
        words.next().unwrap_or_default().to_owned(),
        words.next().unwrap_or_default(),
    );
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (path, query) = (
        unescaped(path),
        query.split('&').map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (name.to_owned(), unescaped(value))
        }),
    );
    let query = query.collect();
    let mut headers = HashMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(':') else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some(Request {
        method,
        path,
        query,
        headers,
        body,
    }))
}

impl Server {
    fn serve(&self, stream: &TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut reader = BufReader::new(stream);
        while let Some(request) = request(&mut reader)? {
            let number = self.requests.fetch_add(1, Ordering::Relaxed);
            let fault = {
                let faults = self.faults.lock().expect("no panic under it");
                let strikes = |fault: &&Fault| match fault.at {
                    at @ ..128 => number == usize::from(at % 32),
                    at => number >= usize::from(at % 32),
                };
                faults.iter().find(strikes).copied()
            };
            // Refused before anything is done.
            let refused = match fault.map(|fault| fault.what % 18) {
                Some(0) => Some(Answer::error(503, "SlowDown")),
                Some(1) => Some(Answer::error(404, "NoSuchKey")),
                Some(2) => Some(Answer::error(412, "PreconditionFailed")),
                Some(3) => Some(Answer::error(409, "ConditionalRequestConflict")),
                Some(4) => return Ok(()),
                Some(5) => {
                    let mut answer = Answer::new(
                        [301, 302, 307, 308][usize::from(fault.map_or(0, |it| it.how) % 4)],
                        "",
                    );
                    answer
                        .headers
                        .push(("Location".into(), request.path.clone()));
                    Some(answer)
                }
                _ => None,
            };
            let is_refused = refused.is_some();
            let mut answer = refused.unwrap_or_else(|| self.answer(&request));
            if let Some(fault) = fault.filter(|_| !is_refused) {
                twist(&mut answer, fault, &request);
            }
            self.write(stream, &request, &answer)?;
            if answer.closes {
                return Ok(());
            }
        }
        Ok(())
    }

    fn write(
        &self,
        mut stream: &TcpStream,
        request: &Request,
        answer: &Answer,
    ) -> std::io::Result<()> {
        let length = (answer.body.len() as i64 + answer.length_off).max(0);
        let mut head = format!(
            "HTTP/1.1 {} Said\r\nContent-Length: {length}\r\n",
            answer.status
        );
        for (name, value) in &answer.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes())?;
        if request.method != "HEAD" {
            stream.write_all(&answer.body)?;
        }
        Ok(())
    }

    /// What a right server answers.
    fn answer(&self, request: &Request) -> Answer {
        let mut objects = self.objects.lock().expect("no panic under it");
        let key = request
            .path
            .strip_prefix("/bucket")
            .unwrap_or_default()
            .trim_start_matches('/')
            .to_owned();
        match request.method.as_str() {
            "PUT" => {
                if request.headers.contains_key("if-none-match") && objects.contains_key(&key) {
                    return Answer::error(412, "PreconditionFailed");
                }
                let token = request
                    .headers
                    .get("x-amz-meta-highwater-put")
                    .cloned()
                    .unwrap_or_default();
                objects.insert(
                    key,
                    Object {
                        bytes: request.body.clone(),
                        token,
                    },
                );
                let mut answer = Answer::new(200, "");
                answer.headers.push(("ETag".into(), "\"e\"".into()));
                answer
            }
            "DELETE" => {
                objects.remove(&key);
                Answer::new(204, "")
            }
            "GET" if key.is_empty() => list(&objects, &request.query),
            "GET" | "HEAD" => {
                let Some(object) = objects.get(&key) else {
                    return Answer::error(404, "NoSuchKey");
                };
                let length = object.bytes.len();
                let range = request.headers.get("range").and_then(|range| {
                    let (start, end) = range.strip_prefix("bytes=")?.split_once('-')?;
                    Some((
                        start.parse::<usize>().ok()?,
                        end.parse::<usize>().unwrap_or(usize::MAX),
                    ))
                });
                let mut answer = match range {
                    Some((start, _)) if start >= length => {
                        return Answer::error(416, "InvalidRange");
                    }
                    Some((start, end)) => {
                        let end = end.min(length - 1);
                        let mut answer = Answer::new(206, &object.bytes[start..=end]);
                        answer.headers.push((
                            "Content-Range".into(),
                            format!("bytes {start}-{end}/{length}"),
                        ));
                        answer
                    }
                    None => Answer::new(200, object.bytes.clone()),
                };
                for (name, value) in [
                    ("ETag", "\"e\""),
                    ("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT"),
                    ("x-amz-meta-highwater-put", &object.token),
                ] {
                    answer.headers.push((name.into(), value.into()));
                }
                answer
            }
            _ => Answer::error(501, "NotImplemented"),
        }
    }
}

fn list(objects: &BTreeMap<String, Object>, query: &HashMap<String, String>) -> Answer {
    let prefix = query.get("prefix").map_or("", String::as_str);
    let mut items = Vec::new();
    for (key, object) in objects.iter().filter(|(key, _)| key.starts_with(prefix)) {
        let beneath = key[prefix.len()..].split_once('/');
        items.push(match beneath.filter(|_| query.contains_key("delimiter")) {
            Some((directory, _)) => {
                format!("<CommonPrefixes><Prefix>{prefix}{directory}/</Prefix></CommonPrefixes>")
            }
            None => format!(
                "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"e\"</ETag><Size>{}</Size></Contents>",
                object.bytes.len()
            ),
        });
    }
    items.dedup();
    let token = query.get("continuation-token");
    let start = token.and_then(|token| token.parse().ok()).unwrap_or(0);
    let end = items.len().min(start + PAGE);
    let page = items.get(start..end).unwrap_or_default().concat();
    let more = match end < items.len() {
        true => format!(
            "<IsTruncated>true</IsTruncated><NextContinuationToken>{end}</NextContinuationToken>"
        ),
        false => "<IsTruncated>false</IsTruncated>".to_owned(),
    };
    Answer::new(
        200,
        format!("<?xml version=\"1.0\"?><ListBucketResult>{more}{page}</ListBucketResult>"),
    )
}

/// Changes what a right server would have answered, after it did what it was asked to.
fn twist(answer: &mut Answer, fault: Fault, request: &Request) {
    let how = usize::from(fault.how);
    let body = &mut answer.body;
    match fault.what % 18 {
        6 => {
            // An error in an answer that says that all is well.
            *answer = Answer {
                headers: answer.headers.clone(),
                ..Answer::error(200, "InternalError")
            };
        }
        7 => *body = b"<ListBucketResult><Contents><Key>a</Key>".repeat(how),
        8 => *body = (0..how * 4).map(|at| (at * 89 + how) as u8).collect(),
        // Cut, and the length says so or not.
        9 => body.truncate(body.len().saturating_sub(1 + how)),
        10 => {
            let cut = (1 + how).min(body.len());
            body.truncate(body.len() - cut);
            answer.length_off = cut as i64;
            answer.closes = true;
        }
        11 => {
            answer.length_off = -(1 + how as i64);
            answer.closes = true;
        }
        12 => answer
            .headers
            .retain(|(name, _)| name != ["ETag", "Last-Modified", "Content-Range"][how % 3]),
        13 => {
            for (name, value) in &mut answer.headers {
                if *name
                    == [
                        "ETag",
                        "Last-Modified",
                        "Content-Range",
                        "x-amz-meta-highwater-put",
                    ][how % 4]
                {
                    *value = [
                        "",
                        "\"f\"",
                        "bytes 0-0/1",
                        "\u{1}",
                        "bytes 0-99999999999999999999/1",
                    ][how / 4 % 5]
                        .to_owned();
                }
            }
        }
        14 => {
            if let Some(at) = (how * 37).checked_rem(body.len()) {
                body[at] ^= 1 << (how % 8);
            }
        }
        15 => answer.headers.push(("X-Long".into(), "x".repeat(how << 8))),
        16 => {
            // Pages without end, which give one token again and again, or what they gave already.
            if request.query.contains_key("list-type") {
                let text = String::from_utf8_lossy(body);
                let token = if how % 2 == 0 {
                    "again".to_owned()
                } else {
                    format!(
                        "{how}-{}",
                        request
                            .query
                            .get("continuation-token")
                            .map_or(0, String::len)
                    )
                };
                let page = text.replace(
                    "<IsTruncated>false</IsTruncated>",
                    &format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"),
                );
                *body = page.into_bytes();
            }
        }
        // It was done, but nobody hears of it.
        _ => {
            if how % 2 == 0 {
                *answer = Answer::error(500, "InternalError");
            } else {
                body.clear();
                answer.length_off = 10;
                answer.closes = true;
            }
        }
    }
}

fn state() -> KeyedState {
    let groups = KeyGroups::new(128).expect("there may be 128");
    let descriptor = StateDescriptor {
        name: "s".to_owned(),
        kind: StateKind::Value,
        schema: "bytes".to_owned(),
        schema_version: 1,
        ttl: None,
    };
    let mut state = KeyedState::new(vec![descriptor], groups.range_of(0, 1), groups);
    for key in 0..50_u32 {
        state
            .put(0, &key.to_le_bytes(), &[key as u8; 10])
            .expect("it is one of its keys");
        state.commit();
    }
    state
}

fn metadata() -> Metadata {
    let declared = State {
        name: "s".to_owned(),
        kind: "value".to_owned(),
        schema: "bytes".to_owned(),
        schema_version: 1,
        ttl_ms: None,
        ttl_refresh: None,
        ttl_time: None,
        entries: 0,
        bytes: 0,
    };
    Metadata {
        writer: "0.1.0".to_owned(),
        job_name: "job".to_owned(),
        job_id: "job".to_owned(),
        run: None,
        generation: 0,
        holder: None,
        id: 1,
        previous: None,
        kind: Kind::Checkpoint,
        drained: false,
        triggered_at: 0,
        duration_ms: 0,
        key_groups: 128,
        key_hash: "xxh3-64".to_owned(),
        operators: vec![Operator {
            id: "o".to_owned(),
            role: Role::Operator,
            parallelism: 1,
            labels: BTreeMap::new(),
            operator_states: Vec::new(),
            states: vec![declared],
            subtasks: vec![Subtask::default()],
        }],
    }
}

/// A storage that was opened before, patient or not.
fn opened(server: &Server, patient: bool) -> Arc<dyn Storage> {
    static OPENED: [OnceLock<CloudStorage>; 2] = [OnceLock::new(), OnceLock::new()];
    let patience = if patient { LONG_PATIENCE } else { PATIENCE };
    let storage = OPENED[usize::from(patient)]
        .get_or_init(|| open(server, patience, false).expect("nothing is sent yet"));
    Arc::new(storage.clone())
}

fn open(server: &Server, patience: Duration, create: bool) -> Result<CloudStorage, Error> {
    let endpoint = format!(
        "http://127.0.0.1:{}",
        server.port.get().copied().unwrap_or_default()
    );
    let variables = [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_REGION", "us-east-1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let bucket = Remote::parse("s3://bucket/dir", "directory")?;
    match create {
        true => CloudStorage::create(&bucket, patience, &variables),
        false => CloudStorage::open(&bucket, patience, &variables),
    }
}

fn take(storage: Arc<dyn Storage>, inline_threshold: u64) -> Result<Completed, Error> {
    let options = Options {
        inline_threshold,
        ..Options::default()
    };
    let store = CheckpointStore::with_storage(storage, "job", options)?;
    let id = CheckpointId(1);
    let pending = store.begin(id)?;
    let written = pending.write("o", 0, &state().snapshot(id, None))?;
    pending.complete(metadata(), vec![(0, 0, written)])
}

fn segments(checkpoint: &Completed) -> Result<Vec<Vec<u8>>, String> {
    let mut all = Vec::new();
    for (_, _, segment) in checkpoint.segments() {
        let mut bytes = Vec::new();
        let mut reader = checkpoint
            .read(segment)
            .map_err(|error| error.to_string())?;
        reader
            .read_to_end(&mut bytes)
            .map_err(|error| error.to_string())?;
        all.push(bytes);
    }
    Ok(all)
}

/// What a bucket really has, in a storage that is right.
fn really(server: &Server) -> Arc<dyn Storage> {
    let storage = MemoryStorage::new();
    for (key, object) in server.objects.lock().expect("no panic under it").iter() {
        let name = key.strip_prefix("dir/").unwrap_or(key);
        storage
            .put_new(name, vec![object.bytes.clone().into()])
            .expect("memory takes it");
    }
    Arc::new(storage)
}

fn right() -> Vec<u8> {
    let mut bytes = Vec::new();
    state()
        .snapshot(CheckpointId(1), None)
        .write(&mut bytes)
        .expect("memory takes it");
    bytes
}

/// What each bit of the first byte chooses.
const READS: u8 = 1;
const INLINE: u8 = 2;
const CREATES: u8 = 8;
const OBJECTS: u8 = 16;
const RIVAL: u8 = 32;
const STREAM: u8 = 64;

fn run(input: &[u8]) {
    let Some((choice, script)) = input.split_first() else {
        return;
    };
    let faults: Vec<Fault> = script
        .chunks_exact(3)
        .map(|it| Fault {
            at: it[0],
            what: it[1],
            how: it[2],
        })
        .collect();
    let server = server();
    server.objects.lock().expect("no panic under it").clear();
    if choice & OBJECTS == 0 {
        checkpoint(server, *choice, &faults);
    } else {
        objects(server, *choice, &faults);
    }
    set(server, &[]);
}

fn set(server: &Server, faults: &[Fault]) {
    *server.faults.lock().expect("no panic under it") = faults.to_vec();
    server.requests.store(0, Ordering::Relaxed);
}

/// Takes a checkpoint, and reads it; the one or the other meets the faults.
fn checkpoint(server: &Server, choice: u8, faults: &[Fault]) {
    let reads = choice & READS != 0;
    let inline_threshold = if choice & INLINE == 0 { 0 } else { 1 << 20 };
    set(server, if reads { &[] } else { faults });
    let storage = match choice & CREATES == 0 {
        true => Ok(opened(server, reads)),
        false => {
            let patience = if reads { LONG_PATIENCE } else { PATIENCE };
            open(server, patience, true).map(|it| Arc::new(it) as Arc<dyn Storage>)
        }
    };
    let taken = storage.and_then(|storage| take(storage, inline_threshold));
    set(server, &[]);
    if let Err(error) = &taken
        && reads
    {
        panic!("a right server is refused: {error}");
    }
    if taken.is_err() {
        return;
    }
    let there =
        Completed::open(really(server), "job/chk-1").expect("a completed checkpoint is there");
    assert!(
        verify(&there).is_good(),
        "a completed checkpoint is damaged"
    );
    assert_eq!(
        segments(&there),
        Ok(vec![right()]),
        "a completed checkpoint has other state"
    );
    drop(taken);
    if !reads {
        return;
    }
    set(server, faults);
    let storage = opened(server, false);
    // An answer may hide what is there, but not show what is not.
    if let Ok(listing) = storage.list("job") {
        for object in &listing.objects {
            assert!(
                object.name.starts_with("job/"),
                "`{}` is not in the directory",
                object.name
            );
        }
    }
    if let Ok(found) = Completed::open(Arc::clone(&storage), "job/chk-1")
        && verify(&found).is_good()
        && let Ok(segments) = segments(&found)
    {
        assert_eq!(found.metadata(), there.metadata());
        assert_eq!(segments, vec![right()], "wrong state is taken as right");
    }
}

/// Puts, reads, lists and deletes objects.
fn objects(server: &Server, choice: u8, faults: &[Fault]) {
    let lies = faults.iter().any(|it| LIES.contains(&(it.what % 18)));
    let rival = choice & RIVAL != 0;
    let at = |name: &str| {
        let objects = server.objects.lock().expect("no panic under it");
        objects
            .get(&format!("dir/{name}"))
            .map(|it| it.bytes.clone())
    };
    let place = |name: &str, bytes: &[u8]| {
        let object = Object {
            bytes: bytes.to_vec(),
            token: "another".to_owned(),
        };
        let mut objects = server.objects.lock().expect("no panic under it");
        objects.insert(format!("dir/{name}"), object);
    };
    let old: Vec<u8> = (0..200).collect();
    for name in ["a/0", "a/1", "a/2", "a/3", "a/b/4", "a/c/5", "d/6"] {
        place(name, &old);
    }
    if rival {
        place("a/new", b"of a rival");
    }
    set(server, faults);
    let storage = opened(server, false);

    let mine = b"mine".as_slice();
    let put = match choice & STREAM == 0 {
        true => storage.put_new("a/new", vec![mine.into()]),
        false => storage.create("a/new").and_then(|mut writer| {
            writer.append(mine)?;
            writer.finish()
        }),
    };
    let there = at("a/new");
    match put {
        Ok(()) => {
            assert!(!rival, "a put succeeds where there is an object");
            assert_eq!(
                there.as_deref(),
                Some(mine),
                "a put that succeeded made none"
            );
        }
        Err(_) if rival => {}
        // It may have been made, but by nobody else.
        Err(_) => assert!(there.is_none_or(|bytes| bytes == mine)),
    }
    if rival {
        let there = at("a/new");
        assert_eq!(
            there.as_deref(),
            Some(b"of a rival".as_slice()),
            "a put overwrites"
        );
    }

    for range in [0..50, 190..250, 200..300, 7..8] {
        if let Ok(bytes) = storage.read("a/1", range.clone())
            && !lies
        {
            let end = old.len().min(range.end as usize);
            let expected = old.get(range.start as usize..end).unwrap_or_default();
            assert_eq!(bytes, expected, "a read gives other bytes");
        }
    }
    if let Ok(listing) = storage.list("a")
        && !lies
    {
        let objects: Vec<&str> = listing.objects.iter().map(|it| it.name.as_str()).collect();
        let mut expected = vec!["a/0", "a/1", "a/2", "a/3"];
        if at("a/new").is_some() {
            expected.push("a/new");
        }
        assert_eq!(objects, expected, "a listing is not of what is there");
        assert_eq!(listing.directories, ["a/b", "a/c"]);
    }
    if storage.delete("a/2").is_ok() && !lies {
        assert_eq!(at("a/2"), None, "what was deleted is there");
    }
    for name in ["a/0", "a/1", "d/6"] {
        assert_eq!(
            at(name).as_deref(),
            Some(old.as_slice()),
            "`{name}` is changed"
        );
    }
}
