//! Clients that are wrong, slow, many, or gone.

use super::*;

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").into_bytes()
}

/// The status and the failure of an answer.
fn refused(answer: &str) -> (u16, Failure) {
    let status = answer.split(' ').nth(1).unwrap_or_default().parse();
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
    let failure = body.and_then(|body| serde_json::from_str(body).ok());
    let failure = failure.unwrap_or_else(|| panic!("no failure: {answer:?}"));
    (status.unwrap(), failure)
}

#[test]
fn c83_what_makes_no_sense_is_refused_with_a_reason() {
    let setting = Setting::new(Limits::default());
    let body = |it: &str| post("a", &it.replace('\'', "\""));
    let long_id = format!("{{'request-id':'{}','operation':'cancel'}}", "x".repeat(65));
    let long_path = format!(
        "{{'request-id':'1','operation':'savepoint','directory':'/{}'}}",
        "x".repeat(4096)
    );
    for (request, status, part) in [
        (get("/"), 404, "no path"),
        (get("/v2"), 404, "no path `v2`"),
        (get("/v1/"), 404, "no path"),
        (get("/v1/jobs/a/b"), 404, "no path"),
        (get("/v1/jobs/%ff"), 404, "no path"),
        (get("/v1/jobs/nobody"), 404, "there is no job `nobody`"),
        (get("/v1/jobs/a/operations/1"), 404, "no operation"),
        (get("/v1/jobs/a/operations"), 405, "takes POST"),
        (
            b"DELETE /v1/jobs/a HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
            405,
            "takes GET",
        ),
        (get("/v1/jobs/a/operations/1?wait=soon"), 400, "`wait=soon`"),
        (get("/v1/jobs/a/operations/1?wait=-1"), 400, "`wait=-1`"),
        (
            get("/v1/jobs/a/operations/1?until=1"),
            400,
            "no parameter `until`",
        ),
        (body(""), 400, "not understood"),
        (body("[]"), 400, "not understood"),
        (body("{'request-id':'1'}"), 400, "`operation`"),
        (body("{'operation':'cancel'}"), 400, "`request-id`"),
        (
            body("{'request-id':'1','operation':'explode'}"),
            400,
            "explode",
        ),
        (
            body("{'request-id':'1','operation':'stop','drian':true}"),
            400,
            "no key `drian`",
        ),
        (
            body("{'request-id':'1','operation':'cancel','drain':true}"),
            400,
            "no key `drain`",
        ),
        (
            body("{'request-id':'','operation':'cancel'}"),
            400,
            "request id",
        ),
        (
            body("{'request-id':'a b','operation':'cancel'}"),
            400,
            "request id",
        ),
        (
            body("{'request-id':'ü','operation':'cancel'}"),
            400,
            "request id",
        ),
        (body(&long_id), 400, "request id"),
        (
            body("{'request-id':'1','operation':'rescale','parallelism':0}"),
            400,
            "at least 1",
        ),
        (
            body("{'request-id':'1','operation':'rescale','parallelism':-1}"),
            400,
            "not understood",
        ),
        (
            body("{'request-id':'1','operation':'rescale'}"),
            400,
            "parallelism",
        ),
        (
            body("{'request-id':'1','operation':'interval','interval-ms':0}"),
            400,
            "at least 1 ms",
        ),
        (
            body("{'request-id':'1','operation':'interval'}"),
            400,
            "interval-ms",
        ),
        (
            body("{'request-id':'1','operation':'savepoint','directory':'here'}"),
            400,
            "absolute",
        ),
        (
            body("{'request-id':'1','operation':'savepoint','directory':''}"),
            400,
            "absolute",
        ),
        (
            body("{'request-id':'1','operation':'savepoint','directory':'/\\u0000'}"),
            400,
            "absolute",
        ),
        (
            body("{'request-id':'1','operation':'stop','savepoint-directory':'../x'}"),
            400,
            "absolute",
        ),
        (body(&long_path), 400, "4096"),
    ] {
        let answer = setting.raw(&request);
        let request = String::from_utf8_lossy(&request).into_owned();
        let (found, failure) = refused(&answer);
        assert_eq!(found, status, "{request}: {answer}");
        assert!(failure.message.contains(part), "{request}: {failure}");
    }
    assert!(setting.jobs.begun().is_empty());
    // What `null` says is said.
    let off = body("{'request-id':'1','operation':'interval','interval-ms':null}");
    let answer = setting.raw(&off);
    assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
    let host = setting.host();
    let failure = host
        .begin("a", &request("a b", Operation::Cancel))
        .unwrap_err();
    assert_eq!(failure.code, Code::BadRequest);
    assert_eq!(setting.jobs.begun().len(), 1);
}

#[test]
fn c83_what_is_no_http_ends_its_own_connection_only() {
    let setting = Setting::new(Limits::default());
    let long_head = format!("GET /v1 HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let long_path = format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(1 << 20));
    let many = format!("GET /v1 HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(1000));
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03garbage\r\n\r\n"[..],
        b"\r\n\r\n\0\0\0\r\n\r\n",
        b"GET /v1 HTTP/9.9\r\n\r\n",
        b"GET /v1 HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        long_head.as_bytes(),
        long_path.as_bytes(),
        many.as_bytes(),
    ] {
        let answer = setting.raw(garbage);
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    assert_eq!(setting.host().jobs().unwrap().len(), 2);
}

#[test]
fn c83_a_body_that_is_too_large_is_refused_and_not_read() {
    let setting = Setting::new(Limits::default());
    // Announced: refused before it comes.
    let announced =
        b"POST /v1/jobs/a/operations HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n";
    let (status, failure) = refused(&setting.raw(announced));
    assert_eq!((status, failure.code), (413, Code::BadRequest));
    assert!(failure.message.contains("65536 bytes"), "{failure}");
    // In pieces, with no end.
    let mut endless =
        b"POST /v1/jobs/a/operations HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_vec();
    for _ in 0..70 {
        endless.extend_from_slice(b"400\r\n");
        endless.extend_from_slice(&[b' '; 0x400]);
        endless.extend_from_slice(b"\r\n");
    }
    assert_eq!(refused(&setting.raw(&endless)).0, 413);
    // One that just fits is understood.
    let mut fits = r#"{"request-id":"1","operation":"checkpoint"}"#.to_owned();
    fits.push_str(&" ".repeat(65536 - fits.len()));
    let answer = setting.raw(&post("a", &fits));
    assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
}

#[test]
fn c83_an_unfinished_request_is_closed_after_a_while() {
    let setting = Setting::new(Limits {
        request: Duration::from_millis(200),
        ..Limits::default()
    });
    for unfinished in [&b""[..], b"GET /v1", b"GET /v1 HTTP/1.1\r\nhost: x\r\n"] {
        let answer = setting.raw(unfinished);
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    let body = b"POST /v1/jobs/a/operations HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{";
    assert_eq!(refused(&setting.raw(body)).0, 408);
}

#[test]
fn c83_one_connection_too_many_is_refused_and_room_comes_back() {
    let setting = Setting::new(Limits::default());
    let host = setting.host();
    host.begin("a", &request("1", savepoint())).unwrap();
    // They wait for an operation that does not end.
    let wait = get("/v1/jobs/a/operations/1?seen=0&wait=60000");
    let open = || {
        let mut stream = UnixStream::connect(setting.socket()).unwrap();
        stream.write_all(&wait).unwrap();
        stream
    };
    let waiting: Vec<_> = (0..64).map(|_| open()).collect();
    let (status, failure) = refused(&setting.raw(&get("/v1")));
    assert_eq!((status, failure.code), (503, Code::Busy));
    // Neither do those that say nothing take its room from the one answer.
    let mute: Vec<_> = (0..200)
        .map(|_| UnixStream::connect(setting.socket()).unwrap())
        .collect();
    drop(mute);
    // They go, and say no goodbye.
    drop(waiting);
    let directories = setting.directories.clone();
    let back = in_time(move || {
        loop {
            let mut found = Client::with(directories.clone()).unwrap().hosts().unwrap();
            if let Some(host) = found.hosts.pop() {
                return host.jobs().unwrap().len();
            }
        }
    });
    assert_eq!(got(&back), 2);
    // The operation knows nothing of it.
    setting.jobs.held().finish(Ok(taken(1)));
    let status = host.operation("a", "1", None, Duration::ZERO).unwrap();
    assert!(status.state.has_ended());
}

#[test]
fn a_client_that_goes_leaves_its_operation_and_its_outcome() {
    let setting = Setting::new(Limits::default());
    let body = r#"{"request-id":"gone","operation":"savepoint"}"#;
    let mut stream = UnixStream::connect(setting.socket()).unwrap();
    stream.write_all(&post("a", body)).unwrap();
    let ticket = setting.jobs.held();
    drop(stream);
    ticket.finish(Ok(taken(6)));
    let status = setting
        .host()
        .operation("a", "gone", None, Duration::ZERO)
        .unwrap();
    let report = Box::new(taken(6));
    assert_eq!(status.state, OperationState::Done { report });
}

#[test]
fn more_operations_than_can_be_remembered_are_refused() {
    let setting = Setting::new(Limits {
        operations: 2,
        ..Limits::default()
    });
    let host = setting.host();
    for id in ["1", "2"] {
        host.begin("a", &request(id, savepoint())).unwrap();
    }
    let body = r#"{"request-id":"3","operation":"checkpoint"}"#;
    let (status, failure) = refused(&setting.raw(&post("a", body)));
    assert_eq!((status, failure.code), (503, Code::Busy));
    setting.jobs.held().finish(Ok(taken(1)));
    host.run("a", &request("3", Operation::Checkpoint), |_| {})
        .unwrap();
    assert_eq!(setting.jobs.begun().len(), 3);
}

#[test]
fn c151_a_name_that_could_steer_a_terminal_is_escaped_in_messages() {
    let setting = Setting::new(Limits::default());
    let name = "x\u{1b}[2J\n\u{202e}";
    *setting.jobs.jobs.lock().unwrap() = vec![
        job(name, "id-\u{1b}1", JobState::Running),
        job(name, "id-\u{1b}2", JobState::Running),
    ];
    for failure in [
        setting.client.find(name, None).unwrap_err(),
        setting.client.find("nobody", None).unwrap_err(),
        setting.host().job("nobody").unwrap_err(),
        setting.host().job(name).unwrap_err(),
    ] {
        let text = failure.to_string();
        assert!(text.contains("\\u{1b}"), "{text}");
        assert!(!text.contains(['\u{1b}', '\n', '\u{202e}']), "{text}");
    }
    // Programs get the name itself.
    assert_eq!(setting.host().jobs().unwrap()[0].name, name);
}

/// A host that accepts connections and says nothing, as one that was stopped by a signal.
#[test]
fn a_host_that_does_not_answer_keeps_nobody_from_the_others() {
    let setting = Setting::new(Limits::default());
    let (socket, _listener) = setting.directories.bind().unwrap();
    let found = setting.client.hosts().unwrap();
    assert_eq!((found.hosts.len(), found.silent.len()), (1, 1));
    assert_eq!(found.silent[0].process, Some(std::process::id()));
    let text = found.silent[0].failure.to_string();
    assert!(text.contains("does not answer"), "{text}");
    // It may have the job, so nobody says that there is none.
    let unknown = setting.client.find("other", None).unwrap_err();
    assert_eq!(unknown.code, Code::Lost, "{unknown}");
    assert!(unknown.message.contains("does not answer"), "{unknown}");
    let elsewhere = setting.client.find("other", Some(1)).unwrap_err();
    assert_eq!(elsewhere.code, Code::NotFound, "{elsewhere}");
    assert!(socket.path().exists(), "it lives");
}
