//! Input of any shape: what is broken or made to hurt is refused by file and line, and costs neither the
//! memory nor the time of the host. Conformance 164.
//!
//! Method: files of the worst shapes are written and read through the binary, with the most memory that it
//! ever had. That work is linear is held beside the decoder (`crates/formats/src/decoder/tests.rs`); here a
//! reader that is not hangs.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::host::{self, Ended};
use crate::jobs;
use crate::scene::Scene;

/// The most memory that reading takes: the program, a few records of the longest kind, and the window of
/// a compressed file.
const MEMORY: u64 = 480 << 20;

/// Runs what follows, and says how much memory it had at most.
const MEASURE: &str = "\
import resource, subprocess, sys
ended = subprocess.run(sys.argv[1:])
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(f'peak: {peak}', file=sys.stderr)
sys.exit(ended.returncode)";

fn job(format: &str, path: &str, more: &str) -> String {
    format!(
        "[job]\nname = \"c164\"\n\n[[source]]\nid = \"in\"\nconnector = \"file\"\npath = \"{path}\"\n\
         format = \"{format}\"\n{more}\n\n"
    ) + &jobs::discard("nowhere", "in")
}

/// Runs the host within its memory.
fn bounded(scene: &Scene, arguments: &[&str], stdin: Stdio) -> Ended {
    let mut command = Command::new("python3");
    command.args(["-c", MEASURE, host::PROGRAM]);
    let ended = host::start_by(command, scene.path(), arguments, stdin).wait();
    let peak = ended
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix("peak: "));
    let peak: u64 = peak
        .and_then(|peak| peak.parse().ok())
        .expect("a number of KiB");
    assert!(
        peak << 10 < MEMORY,
        "{} MiB of memory\n{}",
        peak >> 10,
        ended.transcript()
    );
    ended
}

fn gzip(write: impl FnOnce(&mut dyn Write)) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    write(&mut encoder);
    encoder.finish().expect("memory takes all")
}

fn repeated(piece: &[u8], mib: usize) -> impl FnOnce(&mut dyn Write) {
    let block = piece.repeat((1 << 20) / piece.len());
    move |out| {
        for _ in 0..mib {
            out.write_all(&block).expect("memory takes all");
        }
    }
}

/// The content of one file must end the job, or be refused before it begins, with these words.
fn refused(name: &str, content: &[u8], format: &str, more: &str, saying: &[&str]) {
    let scene = Scene::new();
    scene.write(&format!("input/{name}"), content);
    scene.write("job.toml", job(format, "input/*", more));
    let ended = bounded(&scene, &["run", "job.toml"], Stdio::null());
    assert!(
        matches!(ended.status.code(), Some(1 | 2)),
        "{}",
        ended.transcript()
    );
    assert!(ended.stderr.len() < 20_000, "a short message");
    ended.saying(saying).without_panic();
}

/// As many records are read of the content as are expected.
fn read(name: &str, content: &[u8], format: &str, more: &str, records: usize) {
    let scene = Scene::new();
    scene.write(&format!("input/{name}"), content);
    let job = job(format, "input/*", more).replace("discard", "file");
    let sink = "path = \"out\"\nformat = \"lines\"\n";
    scene.write("job.toml", job.trim_end().to_owned() + "\n" + sink);
    bounded(&scene, &["run", "job.toml"], Stdio::null()).with_code(0);
    assert_eq!(scene.output("out").len(), records, "records of {name}");
}

#[test]
fn c164_a_header_of_any_width_takes_time_in_proportion() {
    let columns: String = (0..1_000_000).map(|n| format!("c{n},")).collect();
    let header = columns + "k\n";
    let scene = Scene::new();
    scene.write("input/wide.csv", &header);
    scene.write("job.toml", job("csv", "input/*", "key = \"k\""));
    for command in ["check", "run"] {
        bounded(&scene, &[command, "job.toml"], Stdio::null())
            .with_code(2)
            .saying(&[
                "`input/wide.csv`, line 1: the header names 1000001 columns, and the source's \
                 `max-columns` is 10000",
            ]);
    }
    // A million columns is what a job file may ask for; looked up one by one it would take an hour.
    let header = header.replacen("c0,", "", 1);
    scene.write("input/wide.csv", header + &",".repeat(999_999) + "\n");
    scene.write(
        "job.toml",
        job("csv", "input/*", "key = \"k\"\nmax-columns = 1000000"),
    );
    for command in ["check", "run"] {
        bounded(&scene, &[command, "job.toml"], Stdio::null()).with_code(0);
    }
}

#[test]
fn c164_a_record_without_end_is_refused_wherever_it_is_packed() {
    let too_long = "a record is longer than 64MiB (`max-record-size` of the source)";
    let zeros = gzip(|out| {
        out.write_all(b"one\ntwo\n").expect("memory takes all");
        repeated(b"\0", 1024)(out);
    });
    for format in ["lines", "json-lines"] {
        let line = if format == "lines" {
            "line 3"
        } else {
            "line 1"
        };
        let place = format!("file `input/a.gz`, {line}: ");
        let message = if format == "lines" {
            too_long
        } else {
            "is not JSON"
        };
        refused("a.gz", &zeros, format, "", &[&place, message]);
    }
    let mut packed = zstd_frame(b"x\ny\n");
    packed.extend(zstd_zeros(1024));
    refused(
        "a.zst",
        &packed,
        "lines",
        "",
        &["file `input/a.zst`, line 3: ", too_long],
    );
    // The quote that is to blame is in another line than the row.
    let quoted = gzip(|out| {
        out.write_all(b"k,v\n1,\"a\nb\"\n\"2\n\",\"")
            .expect("memory takes all");
        repeated(b"\n,\"\"", 200)(out);
    });
    let saying = [
        "file `input/a.csv.gz`, line 4: ",
        too_long,
        "; the quote that is not closed is in line 5",
    ];
    refused("a.csv.gz", &quoted, "csv", "", &saying);
    let unclosed = b"k,v\n1,2\n\"3\n\",\"4\n5,6\n";
    let saying = [
        "file `input/a.csv`, line 3: a quoted field is never closed",
        "; the quote that is not closed is in line 4",
    ];
    refused("a.csv", unclosed, "csv", "", &saying);
    let commas = gzip(|out| {
        out.write_all(b"k,v\n").expect("memory takes all");
        repeated(b",", 60)(out);
        out.write_all(b"\n").expect("memory takes all");
    });
    for more in ["", "key = \"k\""] {
        let saying = ["file `input/a.csv.gz`, line 2: has 62914561 fields, but the header names 2"];
        refused("a.csv.gz", &commas, "csv", more, &saying);
    }
    let saying = [
        "a record is longer than 3B (`max-record-size` of the source)",
        "line 2",
    ];
    refused(
        "a.txt",
        b"abc\nabcd\n",
        "lines",
        "max-record-size = \"3B\"",
        &saying,
    );
}

/// A frame with one raw block.
fn zstd_frame(content: &[u8]) -> Vec<u8> {
    // No checksum, no content size, a window of 1 MiB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 10 << 3];
    let header = (content.len() as u32) << 3 | 1;
    frame.extend_from_slice(&header.to_le_bytes()[..3]);
    frame.extend_from_slice(content);
    frame
}

/// A frame that unpacks to as many MiB of zeros: four bytes for each 128 KiB.
fn zstd_zeros(mib: usize) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, 10 << 3];
    let blocks = mib * 8;
    for block in 1..=blocks {
        let header = (128_u32 << 10) << 3 | 1 << 1 | u32::from(block == blocks);
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(0);
    }
    frame
}

#[test]
fn c164_a_compressed_file_gets_no_more_memory_than_it_may_ask_for() {
    // A window of 2 GiB, for one byte.
    let mut greedy = zstd_frame(b"a");
    greedy[5] = (31 - 10) << 3;
    let saying = [
        "file `input/a.zst`",
        "a frame asks for a window of more than 128 MiB; pack the file without `--long`",
    ];
    refused("a.zst", &greedy, "lines", "", &saying);
    // Members and frames without end that hold nothing, and a bomb of short lines.
    let empty = gzip(|_| {}).repeat(200_000);
    let last = gzip(|out| out.write_all(b"a\nb").expect("memory takes all"));
    read("a.gz", &[empty, last].concat(), "lines", "", 2);
    let empty = zstd_frame(b"").repeat(200_000);
    read(
        "a.zst",
        &[empty, zstd_frame(b"a\nb")].concat(),
        "lines",
        "",
        2,
    );
    let scene = Scene::new();
    scene.write("input/a.gz", gzip(repeated(b"\n", 512)));
    scene.write("job.toml", job("csv", "input/*", ""));
    bounded(&scene, &["check", "job.toml"], Stdio::null())
        .with_code(2)
        .saying(&["no file has a header line"]);
}

#[test]
fn c164_marks_line_ends_and_odd_bytes_are_read_as_documented() {
    let mixed = "\u{feff}k,v\r\na,1\r\rb,2\n\n\"c\r\nd\",\0\r\ne,\n";
    let key = "key = \"k\"";
    read(
        "a.csv",
        &mixed.as_bytes()[..mixed.len() - 14],
        "csv",
        key,
        2,
    );
    read("a.txt", b"\xef\xbb\xbfa\r\nb\r\n\0\r\0\n\n", "lines", "", 4);
    read(
        "a.json",
        b"\xef\xbb\xbf{\"k\":1e999,\"k\":\"x\"}\r\n\n[]\n",
        "json-lines",
        "",
        2,
    );
    let utf_16: Vec<u8> = "\u{feff}k,v\na,1\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for format in ["csv", "lines", "json-lines"] {
        let saying = ["`input/a`, line 1: begins with the byte order mark of UTF-16 or UTF-32"];
        refused("a", &utf_16, format, "", &saying);
    }
    let saying = ["`input/a`, line 3: the header names the column `k` twice"];
    refused("a", b"\n\nk,v,k\n", "csv", "", &saying);
}

#[test]
fn c164_json_is_read_in_any_width_and_in_bounded_depth() {
    let key = "key = \"k\"";
    let fields: String = (0..200_000).map(|n| format!("\"f{n}\":[{n}],")).collect();
    read(
        "a",
        format!("{{{fields}\"k\":1}}\n").as_bytes(),
        "json-lines",
        key,
        1,
    );
    let deep = |depth: usize| {
        let (open, close) = ("[".repeat(depth - 1), "]".repeat(depth - 1));
        format!("{{\"k\":1}}\n{{\"k\":1,\"v\":{open}{close}}}\n")
    };
    read("a", deep(128).as_bytes(), "json-lines", key, 2);
    let saying = [
        "file `input/a`, line 2: is nested deeper than 128 at column ",
        "`max-depth`",
    ];
    refused("a", deep(129).as_bytes(), "json-lines", key, &saying);
    refused("a", deep(10_000_000).as_bytes(), "json-lines", key, &saying);
    read(
        "a",
        deep(500).as_bytes(),
        "json-lines",
        "max-depth = 500",
        2,
    );
    let number = format!("{{\"k\":{}}}\n", "9".repeat(1 << 20));
    read("a", number.as_bytes(), "json-lines", key, 1);
}

#[test]
fn c164_what_is_no_file_is_refused_and_keeps_nobody_waiting() {
    let scene = Scene::new();
    let pipe = scene.at("input/pipe");
    scene.write("input/a.txt", "a\n");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo can be run").success());
    std::os::unix::fs::symlink("/dev/zero", scene.at("input/device")).expect("a link can be made");
    std::os::unix::fs::symlink("a.txt", scene.at("input/link.txt")).expect("a link can be made");
    for name in ["pipe", "device"] {
        scene.write("job.toml", job("lines", &format!("input/{name}"), ""));
        bounded(&scene, &["run", "job.toml"], Stdio::null())
            .with_code(2)
            .saying(&["is neither a file nor a directory"]);
    }
    scene.write("job.toml", job("lines", "input/*.txt", ""));
    bounded(&scene, &["run", "job.toml"], Stdio::null()).with_code(0);
    // A file that is almost nothing on disk and a gigabyte to read.
    let sparse = File::create(scene.at("input/a.txt")).expect("a writable file");
    sparse.set_len(1 << 30).expect("a sparse file");
    bounded(&scene, &["run", "job.toml"], Stdio::null())
        .with_code(1)
        .saying(&["line 1: a record is longer than 64MiB"]);
    // The same through stdin.
    let job = job("lines", "-", "").replace("\"file\"", "\"stdin\"");
    scene.write("job.toml", job.replace("path = \"-\"\n", ""));
    let sparse = File::open(scene.at("input/a.txt")).expect("a readable file");
    bounded(&scene, &["run", "job.toml"], Stdio::from(sparse))
        .with_code(1)
        .saying(&["standard input, line 1: a record is longer than 64MiB"]);
}
