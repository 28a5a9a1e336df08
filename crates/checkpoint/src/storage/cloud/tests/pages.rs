//! Listings that never end, or are longer than any directory of ours: each is refused, after a page or two.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::storage;
use crate::storage::Storage;
use crate::storage::cloud::listing::LISTED_MAX;
use crate::{Error, Result};

/// Lists against a server whose `page`, by its number, is an answer with everything but its frame. Returns how
/// many pages were asked for.
fn list(page: fn(usize) -> String) -> (usize, Result<crate::storage::Listing>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let pages = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&pages);
    thread::spawn(move || {
        // The client may open a second connection before its first one is idle again: a thread for each, because
        // the first stays open.
        for stream in listener.incoming().flatten() {
            let asked = Arc::clone(&counted);
            thread::spawn(move || serve(stream, page, &asked));
        }
    });
    let listing = storage(&endpoint, "dir").list("job");
    (pages.load(Ordering::Relaxed), listing)
}

/// Answers each request of a connection with the next page, until the client closes it.
fn serve(mut stream: TcpStream, page: fn(usize) -> String, asked: &AtomicUsize) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|length| length > 0) {
        if line.trim_end().is_empty() {
            let body = format!(
                "<ListBucketResult>{}</ListBucketResult>",
                page(asked.fetch_add(1, Ordering::Relaxed))
            );
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
            let sent = stream.write_all(head.as_bytes());
            // The client may be gone.
            if sent
                .and_then(|()| stream.write_all(body.as_bytes()))
                .is_err()
            {
                break;
            }
        }
        line.clear();
    }
}

fn truncated(token: &str, contents: &str) -> String {
    format!(
        "<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>{contents}"
    )
}

fn object(key: &str) -> String {
    format!(
        "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"e\"</ETag><Size>1</Size></Contents>"
    )
}

fn why(listing: Result<crate::storage::Listing>) -> String {
    match listing {
        Err(error @ Error::Storage { .. }) => {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            format!("{error}: {}", source.unwrap_or_default())
        }
        other => panic!("it is not refused: {other:?}"),
    }
}

#[test]
fn a_page_that_leads_to_itself_is_refused() {
    let (pages, listing) = list(|_| truncated("again", &object("dir/job/a")));
    assert!(pages <= 3, "{pages} pages were asked for");
    let why = why(listing);
    assert!(why.contains("the same page again"), "{why}");
}

#[test]
fn a_listing_that_never_ends_is_refused_before_it_fills_the_memory() {
    let (pages, listing) = list(|number| {
        let objects = object("dir/job/a").repeat(1000);
        truncated(&number.to_string(), &objects)
    });
    assert!(
        pages <= LISTED_MAX / 1000 + 2,
        "{pages} pages were asked for"
    );
    let why = why(listing);
    assert!(why.contains("more than"), "{why}");
}

#[test]
fn pages_that_end_are_put_together() {
    let (pages, listing) = list(|number| match number {
        0 => truncated("1", &object("dir/job/b")),
        1 => truncated("2", ""),
        _ => format!(
            "<IsTruncated>false</IsTruncated>{}{}<CommonPrefixes><Prefix>dir/job/c/</Prefix></CommonPrefixes>",
            object("dir/job/"),
            object("dir/job/a")
        ),
    });
    let listing = listing.unwrap();
    assert_eq!(pages, 3);
    let names: Vec<&str> = listing.objects.iter().map(|it| it.name.as_str()).collect();
    assert_eq!(names, ["job/a", "job/b"]);
    assert_eq!(listing.directories, ["job/c"]);
}

#[test]
fn what_is_not_in_the_directory_is_refused() {
    let (_, listing) = list(|_| object("other/job/a"));
    let why = why(listing);
    assert!(why.contains("is not in"), "{why}");
}
