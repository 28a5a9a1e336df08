//! Ends: of the server, of the client, and of a process in between.

use super::*;

/// Waits until the server begins no operation any more. It still answers, and is not gone.
fn until_it_closes(host: &Host) {
    for number in 100.. {
        let asked = host.begin("a", &request(&number.to_string(), Operation::Checkpoint));
        if let Err(failure) = asked {
            assert_eq!(failure.code, Code::Ended, "{failure}");
            return;
        }
    }
}

#[test]
fn who_waits_for_the_end_of_the_process_gets_the_answer() {
    let setting = Setting::new(Limits::default());
    let host = setting.host();
    let stop = Operation::Stop {
        drain: false,
        savepoint_directory: None,
    };
    let ran = in_time(move || host.run("a", &request("1", stop), |_| {}));
    setting.jobs.held().finish(Ok(taken(5)));
    setting.server.close();
    assert_eq!(got(&ran).unwrap(), taken(5));
}

#[test]
fn a_client_that_is_between_two_questions_gets_the_answer_too() {
    let setting = Setting::new(Limits::default());
    let host = setting.host();
    // It has heard "in progress", as `run` does, and asks again.
    host.begin("a", &request("1", savepoint())).unwrap();
    let status = host
        .operation("a", "1", Some(0), Duration::from_millis(1))
        .unwrap();
    assert!(!status.state.has_ended());
    setting.jobs.held().finish(Ok(taken(5)));
    let server = setting.server;
    let closed = in_time(move || server.close());
    until_it_closes(&host);
    let status = host.operation("a", "1", Some(0), DEADLINE).unwrap();
    assert!(status.state.has_ended(), "{status:?}");
    got(&closed);
}

#[test]
fn what_has_not_ended_when_the_process_does_has_failed() {
    let limits = Limits {
        close: Duration::from_millis(500),
        ..Limits::default()
    };
    let setting = Setting::new(limits);
    let host = setting.host();
    let waits = host.clone();
    let ran = in_time(move || waits.run("a", &request("1", savepoint()), |_| {}));
    let ticket = setting.jobs.held();
    let socket = setting.socket();
    let server = setting.server;
    got(&in_time(move || server.close()));
    assert!(!socket.exists());
    assert_eq!(got(&ran).unwrap_err().code, Code::Ended);
    drop(ticket);
    let failure = host.begin("a", &request("2", savepoint())).unwrap_err();
    assert_eq!(failure.code, Code::Lost);
    assert!(failure.message.contains("not reached"), "{failure}");
}

#[test]
fn nothing_is_begun_while_the_server_closes() {
    let setting = Setting::new(Limits {
        close: DEADLINE,
        ..Limits::default()
    });
    let host = setting.host();
    let waits = host.clone();
    let ran = in_time(move || waits.run("a", &request("1", savepoint()), |_| {}));
    let ticket = setting.jobs.held();
    let server = setting.server;
    let closed = in_time(move || server.close());
    until_it_closes(&host);
    ticket.finish(Ok(taken(5)));
    assert_eq!(got(&ran).unwrap(), taken(5));
    got(&closed);
}

#[test]
fn a_process_that_dies_leaves_a_client_that_says_so() {
    // A host that takes requests and dies without an answer.
    let parent = tempfile::tempdir().unwrap();
    let directories = Directories::at(parent.path().join("control"));
    let (socket, listener) = directories.bind().unwrap();
    listener.set_nonblocking(false).unwrap();
    let path = socket.path().to_owned();
    let dying = thread::spawn(move || {
        let mut requests = Vec::new();
        // To find it, to ask it, and to ask again.
        let version = br#"{"version":"0","process":7}"#;
        while requests
            .iter()
            .filter(|it: &&String| it.starts_with("POST"))
            .count()
            < 2
        {
            let (mut stream, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            let mut part = [0; 4096];
            while !head.windows(4).any(|it| it == b"\r\n\r\n") {
                match stream.read(&mut part).unwrap() {
                    0 => break,
                    length => head.extend_from_slice(&part[..length]),
                }
            }
            if head.starts_with(b"GET /v1 ") {
                write!(
                    stream,
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
                    version.len()
                )
                .unwrap();
                stream.write_all(version).unwrap();
            }
            requests.push(String::from_utf8_lossy(&head).into_owned());
        }
        requests
    });
    let host = host(&Client::with(directories).unwrap());
    let failure = host
        .run("a", &request("once", savepoint()), |_| {})
        .unwrap_err();
    assert_eq!(failure.code, Code::Lost);
    assert!(
        failure.message.contains("ended before it answered"),
        "{failure}"
    );
    assert!(failure.message.contains("process 7"), "{failure}");
    // It was sent again, with the same id.
    let requests = dying.join().unwrap();
    let posts: Vec<_> = requests
        .iter()
        .filter(|it| it.starts_with("POST"))
        .collect();
    assert!(
        posts.iter().all(|it| it.contains("/v1/jobs/a/operations?")),
        "{posts:?}"
    );
    // Whoever meets it removes what it left.
    assert!(!path.exists());
}

#[test]
fn a_server_that_is_dropped_ends_at_once() {
    let setting = Setting::new(Limits::default());
    let socket = setting.socket();
    let host = setting.host();
    let waits = host.clone();
    let ran = in_time(move || waits.run("a", &request("1", savepoint()), |_| {}));
    let _ticket = setting.jobs.held();
    drop(setting.server);
    assert!(!socket.exists());
    assert_eq!(got(&ran).unwrap_err().code, Code::Lost);
}
