use super::*;
use highwater::testing::Harness;

fn open(config: &str) -> Result<Harness<Faulty>> {
    Harness::setup().config(config).open()
}

#[test]
fn records_are_handed_on_but_for_the_one() {
    let mut faulty = open(r#"{"misdeed": "error", "on": "bad"}"#).unwrap();
    faulty.process(&[("a", "1,\"x,y\""), ("b", "2")]).unwrap();
    assert_eq!(faulty.take_rows(), ["a,1,\"x,y\"", "b,2"]);
    let error = faulty.process(&[("a", "1"), ("a", "bad")]).unwrap_err();
    assert_eq!(error.record(), Some(1));
    assert!(faulty.process(&[("bad", "")]).is_err());
    assert!(faulty.take_rows().is_empty());
}

#[test]
fn orders_are_read_and_handed_on() {
    let mut faulty = open(r#"{"misdeed": "error", "on": "c42", "reads-orders": true}"#).unwrap();
    let order = |amount: &str| {
        format!(
            r#"{{"number":1,"customer":"c1","article":"a1","amount":{amount},"at":"2026-01-01T00:00:00Z"}}"#
        )
    };
    faulty.process(&[("c1", &order("12.5"))]).unwrap();
    assert_eq!(faulty.take_rows().len(), 1);
    for amount in ["-1", "\"x\""] {
        let bad = [("c1", &*order("1")), ("c1", &*order(amount))];
        assert_eq!(faulty.process(&bad).unwrap_err().record(), Some(1));
    }
    assert!(faulty.process(&[("c42", &order("1"))]).is_err());
}

#[test]
fn a_marker_lets_the_misdeed_happen_once() {
    let marker = std::env::temp_dir().join(format!("faulty-{}", std::process::id()));
    let config = format!(r#"{{"misdeed": "error", "once": {marker:?}}}"#);
    assert!(open(&config).unwrap().process(&[("a", "1")]).is_err());
    assert!(open(&config).unwrap().process(&[("a", "1")]).is_ok());
    std::fs::remove_file(marker).unwrap();
}

#[test]
fn state_is_declared_only_to_be_grown() {
    assert!(open(r#"{"misdeed": "trap"}"#).unwrap().states().is_empty());
    let mut faulty = open(r#"{"misdeed": "grow"}"#).unwrap();
    faulty.process(&[("a", ""), ("b", "")]).unwrap();
    assert_eq!(faulty.keys("hoard"), ["a", "b"]);
}

#[test]
fn a_wait_ends_when_its_file_is_there() {
    let file = std::env::temp_dir().join(format!("faulty-wait-{}", std::process::id()));
    std::fs::write(&file, "").unwrap();
    let config = format!(r#"{{"misdeed": "wait", "file": {file:?}}}"#);
    let mut faulty = open(&config).unwrap();
    faulty.process(&[("a", "1")]).unwrap();
    assert_eq!(faulty.take_rows(), ["a,1"]);
    std::fs::remove_file(file).unwrap();
}

#[test]
fn some_misdeeds_come_early() {
    assert_eq!(
        open(r#"{"misdeed": "open-error"}"#).unwrap_err().kind(),
        highwater::ErrorKind::Failed
    );
    assert_eq!(
        open(r#"{"misdeed": "config"}"#).unwrap_err().kind(),
        highwater::ErrorKind::Config
    );
}

#[test]
fn what_is_held_is_the_last_value_of_each_key() {
    let mut faulty = open(r#"{"misdeed": "hold"}"#).unwrap();
    faulty
        .process(&[("a", "long"), ("b", "1"), ("a", "x")])
        .unwrap();
    assert_eq!(faulty.keys("hoard"), ["a", "b"]);
}
