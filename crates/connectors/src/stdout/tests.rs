use dataflow::batch::NO_TIMESTAMP;
use dataflow::port::Format;

use super::*;
use crate::testing::{context, through_json};

/// What was written to standard output.
#[derive(Clone, Default)]
struct Screen(Arc<Mutex<Vec<u8>>>);

impl Write for Screen {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Screen {
    fn text(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

fn factory(delivery: Delivery) -> (StdoutFactory, Screen) {
    let port = Port {
        name: "out".to_owned(),
        keyed: false,
        key_columns: Vec::new(),
        format: Format::Text,
    };
    let options = EncoderOptions {
        format: Some(RecordFormat::Lines),
        ..EncoderOptions::default()
    };
    let screen = Screen::default();
    (
        StdoutFactory::new(
            Encoder::new(&options, &[port]).unwrap(),
            delivery,
            Box::new(screen.clone()),
        ),
        screen,
    )
}

fn batch(values: &[&[u8]]) -> Batch {
    let mut batch = Batch::default();
    values
        .iter()
        .for_each(|value| batch.push(None, value, NO_TIMESTAMP));
    batch
}

#[test]
fn output_waits_for_its_checkpoint_and_is_written_once_by_a_process() {
    let (factory, screen) = factory(Delivery::ExactlyOnce);
    let mut sink = factory.create(&context(0, 1), None).unwrap();
    sink.write(&batch(&[b"a", b"\xff\xe9"])).unwrap();
    let first = through_json(&sink.prepare(CheckpointId(1)).unwrap());
    sink.write(&batch(&[b"lost"])).unwrap();
    assert_eq!(screen.text(), b"");
    assert!(sink.close().is_err());
    // The attempt ends before it hears of the completion: the restart writes for it.
    drop(sink);
    let mut sink = factory.create(&context(0, 1), Some(&first)).unwrap();
    assert_eq!(screen.text(), b"a\n\xff\xe9\n");
    sink.write(&batch(&[b"b"])).unwrap();
    let second = through_json(&sink.prepare(CheckpointId(2)).unwrap());
    assert_eq!(second[0]["text"], "b\n");
    sink.commit(CheckpointId(2)).unwrap();
    sink.commit(CheckpointId(2)).unwrap();
    drop(sink);
    let mut sink = factory.create(&context(0, 1), Some(&second)).unwrap();
    assert_eq!(screen.text(), b"a\n\xff\xe9\nb\n");
    sink.close().unwrap();
}

#[test]
fn a_new_process_writes_what_may_not_have_been_written() {
    let (old, _) = factory(Delivery::ExactlyOnce);
    let mut parts = Vec::new();
    for subtask in 0..2 {
        let mut sink = old.create(&context(subtask, 2), None).unwrap();
        sink.write(&batch(&[format!("{subtask}").as_bytes()]))
            .unwrap();
        parts.extend(through_json(&sink.prepare(CheckpointId(7)).unwrap()));
    }
    let (new, screen) = factory(Delivery::ExactlyOnce);
    for subtask in 0..3 {
        new.create(&context(subtask, 3), Some(&parts)).unwrap();
    }
    assert_eq!(screen.text(), b"0\n1\n");
}

#[test]
fn immediate_output_does_not_wait() {
    let (factory, screen) = factory(Delivery::Immediate);
    let mut sink = factory.create(&context(0, 1), None).unwrap();
    sink.write(&batch(&[b"a"])).unwrap();
    assert_eq!(screen.text(), b"a\n");
    assert_eq!(sink.prepare(CheckpointId(1)).unwrap(), Vec::<Part>::new());
    sink.commit(CheckpointId(1)).unwrap();
    sink.close().unwrap();
    assert_eq!(screen.text(), b"a\n");
}

#[test]
fn what_is_held_back_is_bounded() {
    let (factory, _) = factory(Delivery::ExactlyOnce);
    let mut sink = factory.create(&context(0, 1), None).unwrap();
    let long = vec![b'x'; 1 << 20];
    for _ in 0..15 {
        sink.write(&batch(&[&long])).unwrap();
    }
    sink.prepare(CheckpointId(1)).unwrap();
    let error = sink.write(&batch(&[&long])).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("more than 16 MiB of output wait"),
        "{error}"
    );
}
