//! Servers of S3, Azure, Google and HDFS on loopback, for the tests here and for those of `crates/checkpoint`.
//!
//! `cargo xtask tools` installs them below `target/`. Each test starts its own, on a port that is free, and
//! it ends with the test, whatever happens to that: the server ends when its standard input does.

// The crates that share this file do not use the same parts of it.
#![allow(dead_code, reason = "shared by several test programs")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

/// Which server.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Honours conditional writes.
    Moto,
    /// Ignores them.
    S3rver,
    /// Speaks Azure's protocol, and checks signatures.
    Azurite,
    /// A stub of ours in the place of Google Cloud Storage.
    Google,
    /// The same, but it ignores preconditions.
    GoogleCareless,
    /// Hadoop's own: a NameNode and a DataNode.
    Hdfs,
}

/// What a request to moto's server has to have: it does not check signatures, but wants to see one.
const SIGNED: &str = "Authorization: AWS4-HMAC-SHA256 Credential=test-key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0\r\n";

/// The bucket that is there from the start.
pub(crate) const BUCKET: &str = "checkpoints";

/// Moto looks whether there is an object, and then puts it: in between, another thread may do the same.
/// S3 promises that a condition and its write are one, so requests are carried out one at a time; but their
/// bodies are read before, or a client that stalls would hold up all others.
const MOTO: &str = "\
import io, os, sys, threading
def end():
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=end, daemon=True).start()
from moto import server
run, lock = server.run_simple, threading.Lock()
def run_simple(host, port, app, **options):
    def one_at_a_time(environ, start_response):
        size = environ.get('CONTENT_LENGTH')
        if size:
            environ['wsgi.input'] = io.BytesIO(environ['wsgi.input'].read(int(size)))
        with lock:
            return list(app(environ, start_response))
    run(host, port, one_at_a_time, **options)
server.run_simple = run_simple
server.main(['--host', '127.0.0.1', '--port', '0'])
";

const S3RVER: &str = "\
process.stdin.on('end', () => process.exit()).resume();
const S3rver = require('s3rver');
const server = new S3rver({
  address: '127.0.0.1', port: 0, silent: true, directory: process.argv[1],
  configureBuckets: [{ name: process.argv[2] }],
});
server.run().then(({ port }) => console.error('Running on http://127.0.0.1:' + port));
";

/// A container is made by a signed request. What is in it can be listed by anybody, so that tests can look at it.
const AZURITE: &str = "\
process.stdin.on('end', () => process.exit()).resume();
const [container, account, key] = process.argv.slice(1);
process.argv = [...process.argv.slice(0, 1), 'azurite', '--blobPort', '0', '--inMemoryPersistence',
  '--disableTelemetry', '--skipApiVersionCheck'];
console.log = (line) => {
  const port = /listens on http:..127.0.0.1:(\\d+)/.exec(line)?.[1];
  if (port) create(port).then(() => console.error('Running on http://127.0.0.1:' + port));
};
async function create(port) {
  const headers = { 'x-ms-blob-public-access': 'container', 'x-ms-date': new Date().toUTCString(),
    'x-ms-version': '2023-11-03' };
  const named = Object.keys(headers).sort().map((name) => name + ':' + headers[name]).join('\\n');
  const signed = ['PUT', ...Array(11).fill(''), named,
    `/${account}/${account}/${container}`, 'restype:container'].join('\\n');
  const signature = require('crypto').createHmac('sha256', Buffer.from(key, 'base64'))
    .update(signed).digest('base64');
  const answer = await fetch(`http://127.0.0.1:${port}/${account}/${container}?restype=container`, {
    method: 'PUT', headers: { ...headers, authorization: `SharedKey ${account}:${signature}` } });
  if (!answer.ok) throw new Error(answer.status + await answer.text());
}
require('azurite/dist/src/blob/main.js');
";

/// What Google Cloud Storage answers to the requests of its XML API that the client sends, by its documents: no
/// server of Google's can be had. Preconditions are about generations, and hold for puts, copies and deletions; an
/// upload in parts takes none and overwrites. Look and change are one step.
const GOOGLE: &str = r#"
import datetime, hashlib, http.server, itertools, os, sys, threading, urllib.parse
from email.utils import formatdate
from xml.etree import ElementTree
from xml.sax.saxutils import escape
bucket, token, honours = sys.argv[1], sys.argv[2], sys.argv[3] == 'honours'
def end():
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=end, daemon=True).start()
lock, objects, uploads, numbers = threading.Lock(), {}, {}, itertools.count(1)
class Refused(Exception):
    pass
def etag(content):
    return '"' + hashlib.md5(content).hexdigest() + '"'
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def log_message(self, *ignored):
        pass
    def answer(self, status, body=b'', **headers):
        length = headers.pop('length', len(body))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace('_', '-'), str(value))
        self.send_header('Content-Length', length)
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(body)
    def xml(self, root, text):
        self.answer(200, f'<?xml version="1.0" encoding="UTF-8"?><{root}>{text}</{root}>'.encode(),
                    Content_Type='application/xml')
    def handle_one(self):
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        where, _, key = url.path[1:].partition('/')
        where, key = urllib.parse.unquote(where), urllib.parse.unquote(key)
        try:
            if self.headers.get('Authorization') != 'Bearer ' + token:
                raise Refused(401, 'AuthenticationRequired', 'Authentication required.')
            if where != bucket:
                raise Refused(404, 'NoSuchBucket', 'The specified bucket does not exist.')
            with lock:
                answer = self.decide(key, query, body)
            answer()
        except Refused as refused:
            status, code, message = refused.args
            self.answer(status, f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code>'
                        f'<Message>{message}</Message></Error>'.encode(), Content_Type='application/xml')
    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_one
    def existing(self, key):
        if key not in objects:
            raise Refused(404, 'NoSuchKey', 'The specified key does not exist.')
        return objects[key]
    def check(self, key):
        # 0: there is none. Another number: there is this one.
        wanted = self.headers.get('x-goog-if-generation-match')
        if wanted is None or not honours:
            return
        if not wanted.isdigit():
            raise Refused(400, 'InvalidArgument', 'Invalid argument.')
        if int(wanted) != (objects[key]['generation'] if key in objects else 0):
            raise Refused(412, 'PreconditionFailed',
                          'At least one of the pre-conditions you specified did not hold.')
    def metadata(self):
        return {name.lower(): value for name, value in self.headers.items()
                if name.lower().startswith('x-goog-meta-')}
    def make(self, key, content, metadata):
        now = datetime.datetime.now(datetime.timezone.utc)
        objects[key] = made = {'content': content, 'metadata': metadata, 'modified': formatdate(usegmt=True),
                               'listed': now.strftime('%Y-%m-%dT%H:%M:%S.%fZ'),
                               'generation': 1_700_000_000_000_000 + next(numbers)}
        return {'ETag': etag(content), 'x-goog-generation': made['generation']}
    def decide(self, key, query, body):
        if not key:
            return self.listing(query)
        if 'uploads' in query or 'uploadId' in query:
            return self.upload(key, query, body)
        if self.command in ('GET', 'HEAD'):
            return self.found(self.existing(key))
        if self.command == 'DELETE':
            self.existing(key)
            self.check(key)
            del objects[key]
            return lambda: self.answer(204)
        if self.command != 'PUT':
            raise Refused(405, 'MethodNotAllowed', 'The specified method is not allowed.')
        source = self.headers.get('x-goog-copy-source')
        if source is None:
            self.check(key)
            made = self.make(key, body, self.metadata())
            return lambda: self.answer(200, **made)
        where, _, name = source.lstrip('/').partition('/')
        copied = self.existing(urllib.parse.unquote(name))
        self.check(key)
        self.make(key, copied['content'], copied['metadata'])
        tag = etag(copied['content'])
        return lambda: self.xml('CopyObjectResult', f'<ETag>{tag}</ETag>')
    def found(self, it):
        content, asked = it['content'], self.headers.get('Range')
        headers = {'ETag': etag(content), 'Last-Modified': it['modified'], 'Accept-Ranges': 'bytes',
                   'x-goog-generation': it['generation'], **it['metadata']}
        if self.command == 'HEAD' or not asked:
            return lambda: self.answer(200, b'' if self.command == 'HEAD' else content,
                                       length=len(content), **headers)
        first, _, last = asked.removeprefix('bytes=').partition('-')
        first, last = int(first), min(int(last or len(content)), len(content) - 1)
        if first > last:
            raise Refused(416, 'InvalidRange', 'The requested range cannot be satisfied.')
        headers['Content-Range'] = f'bytes {first}-{last}/{len(content)}'
        return lambda: self.answer(206, content[first:last + 1], **headers)
    def listing(self, query):
        if self.command != 'GET':
            raise Refused(405, 'MethodNotAllowed', 'The specified method is not allowed.')
        if 'uploads' in query:
            ids = ''.join(f'<Upload><UploadId>{it}</UploadId></Upload>' for it in uploads)
            return lambda: self.xml('ListMultipartUploadsResult', ids)
        prefix, delimiter = query.get('prefix', ''), query.get('delimiter', '')
        after, most = query.get('continuation-token', ''), min(int(query.get('max-keys', 1000)), 1000)
        shown = {}
        for key in objects:
            if key.startswith(prefix):
                rest = key[len(prefix):]
                is_beneath = delimiter and delimiter in rest
                shown[prefix + rest.split(delimiter)[0] + delimiter if is_beneath else key] = is_beneath
        page = sorted((it for it in shown if it > after), key=lambda it: it.encode())
        text = f'<Name>{bucket}</Name><IsTruncated>{str(len(page) > most).lower()}</IsTruncated>'
        if len(page) > most:
            text += f'<NextContinuationToken>{escape(page[most - 1])}</NextContinuationToken>'
        for it in page[:most]:
            if shown[it]:
                text += f'<CommonPrefixes><Prefix>{escape(it)}</Prefix></CommonPrefixes>'
                continue
            content = objects[it]['content']
            text += (f'<Contents><Key>{escape(it)}</Key><Size>{len(content)}</Size><ETag>{etag(content)}</ETag>'
                     f'<LastModified>{objects[it]["listed"]}</LastModified></Contents>')
        return lambda: self.xml('ListBucketResult', text)
    def upload(self, key, query, body):
        if self.headers.get('x-goog-if-generation-match') is not None:
            raise Refused(400, 'InvalidArgument', 'Preconditions are not supported here.')
        if 'uploads' in query:
            name = f'upload-{next(numbers)}'
            uploads[name] = {'key': key, 'metadata': self.metadata(), 'parts': {}}
            return lambda: self.xml('InitiateMultipartUploadResult', f'<UploadId>{name}</UploadId>')
        name = query['uploadId']
        begun = uploads.get(name)
        if begun is None or begun['key'] != key:
            raise Refused(404, 'NoSuchUpload', 'The requested upload was not found.')
        if self.command == 'PUT':
            begun['parts'][int(query['partNumber'])] = body
            return lambda: self.answer(200, ETag=etag(body))
        del uploads[name]
        if self.command == 'DELETE':
            return lambda: self.answer(204)
        named = [(int(part.find('PartNumber').text), part.find('ETag').text)
                 for part in ElementTree.fromstring(body)]
        for number, tag in named:
            if number not in begun['parts'] or etag(begun['parts'][number]) != tag:
                uploads[name] = begun
                raise Refused(400, 'InvalidPart', 'One or more of the specified parts could not be found.')
        content = b''.join(begun['parts'][number] for number, _ in named)
        made = self.make(key, content, begun['metadata'])
        return lambda: self.xml('CompleteMultipartUploadResult', f'<ETag>{made["ETag"]}</ETag>')
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
server = Server(('127.0.0.1', 0), Handler)
print(f'Running on http://127.0.0.1:{server.server_port}', file=sys.stderr, flush=True)
server.serve_forever()
"#;

/// A NameNode on a port that is free, and a DataNode. Permissions are checked, and who runs it may do everything.
/// The JVMs end with this process, however it ends.
const HDFS: &str = r#"
import ctypes, os, re, signal, subprocess, sys, threading
jars, directory = sys.argv[1:]
def write(name, text):
    path = os.path.join(directory, 'conf', name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w') as file:
        file.write(text)
def site(name, properties):
    lines = [f'<property><name>{key}</name><value>{value}</value></property>'
             for key, value in properties.items()]
    write(name, '<configuration>' + ''.join(lines) + '</configuration>')
for page in 'hdfs', 'datanode', 'secondary':
    write(f'webapps/{page}/WEB-INF/web.xml', '<web-app/>')
appender = 'log4j.appender.console'
write('log4j.properties', '\n'.join(['log4j.rootLogger=INFO, console',
    appender + '=org.apache.log4j.ConsoleAppender', appender + '.target=System.err',
    appender + '.layout=org.apache.log4j.PatternLayout',
    appender + '.layout.ConversionPattern=%p %c: %m%n']))
site('core-site.xml', {'fs.defaultFS': 'hdfs://127.0.0.1:0', 'hadoop.tmp.dir': directory})
site('hdfs-site.xml', {'dfs.replication': '1', 'dfs.webhdfs.enabled': 'false',
    'dfs.namenode.http-address': '127.0.0.1:0', 'dfs.datanode.address': '127.0.0.1:0',
    'dfs.datanode.ipc.address': '127.0.0.1:0', 'dfs.datanode.http.address': '127.0.0.1:0'})
opens = ['java.base/java.lang', 'java.base/java.nio', 'java.base/sun.nio.ch',
         'java.security.jgss/sun.security.krb5']
java = ['java', '-Xmx256m', '-XX:+UseSerialGC', '-XX:TieredStopAtLevel=1']
java += [f'--add-opens={it}=ALL-UNNAMED' for it in opens]
java += [f'--add-exports={it}=ALL-UNNAMED' for it in opens[2:]]
java += ['-cp', os.path.join(directory, 'conf') + ':' + os.path.join(jars, '*')]
node = 'org.apache.hadoop.hdfs.server.'
environment = {key: value for key, value in os.environ.items() if not key.startswith('HADOOP')}
def end_with_this():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
def run(*arguments):
    return subprocess.Popen(java + list(arguments), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, errors='replace', env=environment, preexec_fn=end_with_this)
def until(process, wanted):
    for line in process.stderr:
        sys.stderr.write(line)
        found = re.search(wanted, line)
        if found:
            threading.Thread(target=lambda: [None for _ in process.stderr], daemon=True).start()
            return found
    sys.exit(f'it ended and did not say: {wanted}')
formatting = run(node + 'namenode.NameNode', '-format', '-nonInteractive')
said = formatting.communicate()[1]
if formatting.returncode:
    sys.exit(said)
name_node = run(node + 'namenode.NameNode')
port = until(name_node, r'NameNode RPC up at: \S*?:(\d+)').group(1)
data_node = run(node + 'datanode.DataNode', '-D', f'fs.defaultFS=hdfs://127.0.0.1:{port}')
until(data_node, r'Successfully sent block report')
print(f'Running on http://127.0.0.1:{port}', file=sys.stderr, flush=True)
sys.stdin.read()
"#;

/// The account and the key that every emulator of Azure has. They are no secret, and are not shown all the same.
const AZURE_ACCOUNT: &str = "devstoreaccount1";
pub(crate) const AZURE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";

/// What the stub of Google's wants to see in each request.
pub(crate) const GOOGLE_TOKEN: &str = "test-token-never-shown";

/// A server that is running. It ends with the drop.
pub(crate) struct Server {
    kind: Kind,
    child: Child,
    port: u16,
    /// What the server keeps its objects in, if that is a directory.
    _directory: tempfile::TempDir,
}

impl Server {
    /// Starts one, with an empty bucket.
    pub(crate) fn start(kind: Kind) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = match kind {
            Kind::Moto => {
                let mut command = Command::new(installed("s3/moto/bin/python"));
                command.args(["-c", MOTO]);
                command
            }
            Kind::S3rver => {
                let mut command = Command::new("node");
                command
                    .current_dir(installed("s3/s3rver"))
                    .args(["-e", S3RVER])
                    .arg(directory.path())
                    .arg(BUCKET);
                command
            }
            Kind::Azurite => {
                let mut command = Command::new("node");
                command.current_dir(installed("azure/azurite")).args([
                    "-e",
                    AZURITE,
                    BUCKET,
                    AZURE_ACCOUNT,
                    AZURE_KEY,
                ]);
                command
            }
            Kind::Google | Kind::GoogleCareless => {
                let mut command = Command::new("python3");
                command.args(["-c", GOOGLE, BUCKET, GOOGLE_TOKEN]);
                command.arg(match kind {
                    Kind::GoogleCareless => "ignores",
                    _ => "honours",
                });
                command
            }
            Kind::Hdfs => {
                let mut command = Command::new("python3");
                command
                    .args(["-c", HDFS])
                    .arg(installed("hdfs/jars"))
                    .arg(directory.path())
                    // It has processes of its own, which are stopped with it.
                    .process_group(0);
                command
            }
        };
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {kind:?}: {error}"));
        let mut said = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let port = port(&mut said).unwrap_or_else(|said| panic!("{kind:?} did not start: {said}"));
        // It says something for every request, and must not wait for somebody to read it.
        thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let server = Self {
            kind,
            child,
            port,
            _directory: directory,
        };
        if matches!(kind, Kind::Moto) {
            let answer = server.request("PUT", &format!("/{BUCKET}"));
            assert!(answer.contains(" 200 "), "no bucket: {answer}");
        }
        server
    }

    /// Its address.
    pub(crate) fn endpoint(&self) -> String {
        match self.kind {
            Kind::Azurite => format!("http://127.0.0.1:{}/{AZURE_ACCOUNT}", self.port),
            Kind::Moto | Kind::S3rver | Kind::Google | Kind::GoogleCareless => {
                format!("http://127.0.0.1:{}", self.port)
            }
            Kind::Hdfs => format!("hdfs://127.0.0.1:{}", self.port),
        }
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The environment in which a program finds it.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        match self.kind {
            Kind::Azurite => return azure_variables(&self.endpoint()),
            Kind::Google | Kind::GoogleCareless => return google_variables(&self.endpoint()),
            // It is found by its URL, and who runs the test has started it.
            Kind::Hdfs => return Vec::new(),
            Kind::Moto | Kind::S3rver => {}
        }
        let mut variables = variables(&self.endpoint());
        if matches!(self.kind, Kind::S3rver) {
            // The only ones that it knows.
            for (name, value) in &mut variables {
                if name.contains("KEY") {
                    "S3RVER".clone_into(value);
                }
            }
        }
        variables
    }

    /// The keys of all objects in the bucket that begin like this.
    pub(crate) fn keys(&self, prefix: &str) -> Vec<String> {
        if matches!(self.kind, Kind::Azurite) {
            let list =
                format!("/{AZURE_ACCOUNT}/{BUCKET}?restype=container&comp=list&prefix={prefix}");
            let answer = self.request("GET", &list);
            assert!(answer.contains(" 200 "), "no list: {answer}");
            let names = answer.split("<Name>").skip(1);
            return names
                .filter_map(|rest| Some(rest.split_once("</Name>")?.0.to_owned()))
                .collect();
        }
        let answer = self.request("GET", &format!("/{BUCKET}?list-type=2&prefix={prefix}"));
        assert!(answer.contains(" 200 "), "no list: {answer}");
        let keys = answer.split("<Key>").skip(1);
        keys.filter_map(|rest| Some(rest.split_once("</Key>")?.0.to_owned()))
            .collect()
    }

    /// Copies an object.
    pub(crate) fn copy(&self, from: &str, to: &str) {
        let source = format!("x-amz-copy-source: /{BUCKET}/{from}\r\n");
        let answer = self.request_with("PUT", &format!("/{BUCKET}/{to}"), &source, b"");
        assert!(answer.contains(" 200 "), "no copy: {answer}");
    }

    /// Puts something in the place of an object.
    pub(crate) fn overwrite(&self, key: &str, bytes: &[u8]) {
        let answer = self.request_with("PUT", &format!("/{BUCKET}/{key}"), "", bytes);
        assert!(answer.contains(" 200 "), "not written: {answer}");
    }

    /// Deletes an object.
    pub(crate) fn delete(&self, key: &str) {
        let answer = self.request("DELETE", &format!("/{BUCKET}/{key}"));
        assert!(answer.contains(" 204 "), "not deleted: {answer}");
    }

    /// How many uploads were begun and neither completed nor aborted.
    pub(crate) fn unfinished_uploads(&self) -> usize {
        let answer = self.request("GET", &format!("/{BUCKET}?uploads"));
        assert!(answer.contains(" 200 "), "no list: {answer}");
        answer.matches("<UploadId>").count()
    }

    /// Sends a request and reads the answer.
    pub(crate) fn request(&self, method: &str, path: &str) -> String {
        self.request_with(method, path, "", b"")
    }

    /// As [`Server::request`], with a header line and a body.
    pub(crate) fn request_with(
        &self,
        method: &str,
        path: &str,
        header: &str,
        body: &[u8],
    ) -> String {
        let mut stream =
            TcpStream::connect(("127.0.0.1", self.port)).expect("the server can be reached");
        let bearer = format!("Authorization: Bearer {GOOGLE_TOKEN}\r\n");
        let signed = match self.kind {
            Kind::Moto => SIGNED,
            Kind::Google | Kind::GoogleCareless => &bearer,
            // It checks them: nothing is sent to it but what needs none.
            Kind::S3rver | Kind::Azurite | Kind::Hdfs => "",
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{signed}{header}Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream
            .write_all(&[head.as_bytes(), body].concat())
            .expect("a request can be sent");
        let mut answer = Vec::new();
        stream
            .read_to_end(&mut answer)
            .expect("an answer can be read");
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// Stops it in its tracks: connections stand, and nothing answers.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let whom = match self.kind {
            // All of its group.
            Kind::Hdfs => format!("-{}", self.child.id()),
            _ => self.child.id().to_string(),
        };
        let status = Command::new("sh")
            .args(["-c", &format!("kill -s {name} -- {whom}")])
            .status();
        assert!(status.is_ok_and(|status| status.success()), "SIG{name}");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The environment in which a program finds a server at this address.
pub(crate) fn variables(endpoint: &str) -> Vec<(String, String)> {
    [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_ACCESS_KEY_ID", "test-key"),
        ("AWS_SECRET_ACCESS_KEY", "test-secret-never-shown"),
        ("AWS_REGION", "us-east-1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// The environment in which a program finds Azurite at this address.
pub(crate) fn azure_variables(endpoint: &str) -> Vec<(String, String)> {
    [
        ("AZURE_STORAGE_ENDPOINT", endpoint),
        ("AZURE_ALLOW_HTTP", "true"),
        ("AZURE_STORAGE_ACCOUNT_NAME", AZURE_ACCOUNT),
        ("AZURE_STORAGE_ACCOUNT_KEY", AZURE_KEY),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// The environment in which a program finds the stub of Google's at this address.
pub(crate) fn google_variables(endpoint: &str) -> Vec<(String, String)> {
    [
        ("GOOGLE_BASE_URL", endpoint),
        ("GOOGLE_ALLOW_HTTP", "true"),
        ("GOOGLE_BEARER_TOKEN", GOOGLE_TOKEN),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// Reads the port from what a server says when it is ready; what it said instead otherwise.
fn port(said: &mut impl BufRead) -> Result<u16, String> {
    const READY: &str = "Running on http://127.0.0.1:";
    let mut all = String::new();
    let mut line = String::new();
    while said.read_line(&mut line).is_ok_and(|length| length > 0) {
        if let Some((_, rest)) = line.split_once(READY) {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            return digits.parse().map_err(|_| line);
        }
        all.push_str(&line);
        line.clear();
    }
    Err(all)
}

/// Something that `cargo xtask tools` installs below `target/`.
pub(crate) fn installed(name: &str) -> PathBuf {
    // Not by `plugins::root`: the tests of `crates/checkpoint` have this file without that one.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find(|above| above.join("Cargo.lock").is_file())
        .expect("the package is in a workspace");
    let path = root.join("target").join(name);
    assert!(
        path.exists(),
        "{} is missing, `cargo xtask tools` installs it",
        path.display()
    );
    path
}
