//! A proxy before an S3 server that does to requests what networks and storages do to them.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Nothing.
    Passed,
    /// It is carried out, and the connection breaks before the answer.
    AnswerLost,
    /// It is carried out, and the answer is that the storage is busy.
    DoneBut503,
    /// It is not carried out: the storage is busy.
    Refused503,
    /// It is not carried out: it is not allowed.
    Refused403,
    /// It is not carried out: the storage does not know such requests.
    NotImplemented501,
}

type Decide = dyn Fn(&str, usize) -> Fate + Send + Sync;

/// Listens on a port of its own. Ends with the drop.
pub(super) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    server: u16,
    decide: Box<Decide>,
    /// How often each first line was seen.
    seen: Mutex<HashMap<String, usize>>,
    lines: Mutex<Vec<String>>,
    struck: AtomicBool,
    closed: AtomicBool,
}

impl Proxy {
    /// Starts one before the server at a port. `decide` gets the first line of a request, and how
    /// often it was seen before.
    pub(super) fn start(
        server: u16,
        decide: impl Fn(&str, usize) -> Fate + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            server,
            decide: Box::new(decide),
            seen: Mutex::default(),
            lines: Mutex::default(),
            struck: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming() {
                if accepting.closed.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                // A connection that breaks is what all this is about.
                thread::spawn(move || client.map(|client| shared.serve(client)));
            }
        });
        Self { port, shared }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Whether any request had another fate than to pass.
    pub(super) fn struck(&self) -> bool {
        self.shared.struck.load(Ordering::SeqCst)
    }

    /// The first lines of all requests.
    pub(super) fn lines(&self) -> Vec<String> {
        self.shared.lines.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

impl Shared {
    /// Serves one request; the connection ends with it.
    fn serve(&self, client: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(client.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_owned();
        let mut head = format!("{line}\r\nConnection: close\r\n");
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            if header.trim().is_empty() {
                break;
            }
            let name = header.to_ascii_lowercase();
            if let Some(value) = name.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if !name.starts_with("connection:") {
                head.push_str(&header);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let nth = {
            let mut seen = self.seen.lock().unwrap();
            let count = seen.entry(line.clone()).or_default();
            *count += 1;
            *count - 1
        };
        self.lines.lock().unwrap().push(line.clone());
        let fate = (self.decide)(&line, nth);
        if fate != Fate::Passed {
            self.struck.store(true, Ordering::SeqCst);
        }
        let mut answer = Vec::new();
        if matches!(fate, Fate::Passed | Fate::AnswerLost | Fate::DoneBut503) {
            let mut server = TcpStream::connect(("127.0.0.1", self.server))?;
            server.write_all(&[head.as_bytes(), b"\r\n", &body].concat())?;
            server.read_to_end(&mut answer)?;
        }
        let mut client = client;
        match fate {
            Fate::Passed => client.write_all(&closing(&answer)),
            Fate::AnswerLost => Ok(()),
            Fate::DoneBut503 | Fate::Refused503 => {
                client.write_all(&error("503 Service Unavailable", "SlowDown"))
            }
            Fate::Refused403 => client.write_all(&error("403 Forbidden", "AccessDenied")),
            Fate::NotImplemented501 => {
                client.write_all(&error("501 Not Implemented", "NotImplemented"))
            }
        }
    }
}

/// An answer that says that the connection ends with it, whether the server said so or not. A client that does not
/// know sends its next request into a connection that is gone, and a deletion is not sent twice.
fn closing(answer: &[u8]) -> Vec<u8> {
    let end = answer.iter().position(|byte| *byte == b'\n');
    let (status, rest) = answer.split_at(end.map_or(answer.len(), |end| end + 1));
    [status, b"Connection: close\r\n", rest].concat()
}

fn error(status: &str, code: &str) -> Vec<u8> {
    let body = format!("<Error><Code>{code}</Code><Message>as planned</Message></Error>");
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
        .into_bytes()
}
