//! Judges what operators with timers have committed: see `timed` for what is asked.

use std::collections::{BTreeMap, BTreeSet};

use super::events::Event;
use super::judge::{Promise, judge};
use super::native::{Committed, records};
use super::reference::{Level, Record};
use super::shapes::Expected;

/// How often something was seen.
pub(crate) type Seen = BTreeMap<&'static str, u64>;

/// These records, in any order.
pub(crate) fn judge_exactly(
    sink: &str,
    records: Vec<Record>,
    committed: &Committed,
    promise: Promise,
) -> Result<(), String> {
    let expected = Expected {
        sink: sink.to_owned(),
        records,
        level: Level::Same,
        ordered: false,
    };
    judge(&expected, committed, promise)
}

/// Each record once, after its time or at the end.
pub(crate) fn judge_nudges(
    committed: &Committed,
    events: &[Event],
    promise: Promise,
    seen: &mut Seen,
) -> Result<(), String> {
    let mut found = Vec::new();
    for (key, value) in records(committed) {
        let (word, id) = value.split_once(' ').unwrap_or_default();
        let word = ["nudge", "left"].into_iter().find(|it| *it == word);
        let Some(word) = word else {
            return Err(format!("`{value}` of key {key} is committed"));
        };
        *seen.entry(word).or_default() += 1;
        found.push((key, id.to_owned()));
    }
    let found: Committed = Committed::new(BTreeMap::from([(String::new(), found)]).into());
    let records = events.iter().map(|it| (it.key.clone(), it.id.clone()));
    judge_exactly("nudges", records.collect(), &found, promise)
}

/// A window or session that was committed.
struct Piece {
    key: String,
    /// The numbers that it says of itself.
    says: Vec<i64>,
    events: Vec<Event>,
}

impl Piece {
    fn has_record_in_time(&self) -> bool {
        self.events.iter().any(|event| !event.may_be_late)
    }
}

/// All results of an operator, and what it was given.
pub(crate) struct Results<'a> {
    events: &'a [Event],
    pieces: Vec<Piece>,
}

impl<'a> Results<'a> {
    /// Reads them. Every record is in one, or was too late.
    pub(crate) fn read(
        committed: &Committed,
        events: &'a [Event],
        word: &str,
        promise: Promise,
    ) -> Result<Self, String> {
        let known: BTreeMap<&str, &Event> = events
            .iter()
            .map(|event| (event.id.as_str(), event))
            .collect();
        let mut times: BTreeMap<&str, u64> = BTreeMap::new();
        let mut pieces = Vec::new();
        for (key, value) in records(committed) {
            let strange = || format!("`{value}` of key {key} is committed");
            let own = |id: &str| {
                let event = known.get(id).filter(|event| event.key == key);
                event.copied().ok_or_else(strange)
            };
            let mut words = value.split(' ');
            if words.next() == Some(word) {
                let mut piece = Piece {
                    key: key.clone(),
                    says: Vec::new(),
                    events: Vec::new(),
                };
                for word in words {
                    match word.parse() {
                        Ok(number) => piece.says.push(number),
                        Err(_) => piece.events.push(own(word)?.clone()),
                    }
                }
                piece.events.sort_by_key(|event| event.time);
                for event in &piece.events {
                    *times.entry(own(&event.id)?.id.as_str()).or_default() += 1;
                }
                pieces.push(piece);
                continue;
            }
            let (id, _) = value.rsplit_once('@').ok_or_else(strange)?;
            let event = own(id)?;
            if event.value() != value {
                return Err(strange());
            }
            if !event.may_be_late {
                return Err(format!("{event:?} is not late, and came too late"));
            }
            *times.entry(event.id.as_str()).or_default() += 1;
        }
        let once = |event: &&Event| match times.get(event.id.as_str()) {
            None => false,
            Some(times) => *times == 1 || promise == Promise::Repeated,
        };
        if let Some(event) = events.iter().find(|event| !once(event)) {
            let times = times.get(event.id.as_str()).unwrap_or(&0);
            return Err(format!("{event:?} is committed {times} times"));
        }
        Ok(Self { events, pieces })
    }

    fn late(&self) -> u64 {
        let within: usize = self.pieces.iter().map(|piece| piece.events.len()).sum();
        self.events.len().saturating_sub(within) as u64
    }

    /// The records in time of each window are in it, together.
    pub(crate) fn judge_windows(
        &self,
        length: i64,
        promise: Promise,
        seen: &mut Seen,
    ) -> Result<(), String> {
        let start = |event: &Event| event.time - event.time.rem_euclid(length);
        let mut in_time: BTreeMap<(&str, i64), BTreeSet<&str>> = BTreeMap::new();
        for event in self.events.iter().filter(|event| !event.may_be_late) {
            let window = in_time.entry((&event.key, start(event))).or_default();
            window.insert(&event.id);
        }
        let mut whole = BTreeSet::new();
        for piece in &self.pieces {
            let [said] = piece.says[..] else {
                return Err(format!(
                    "a window of key {} says {:?}",
                    piece.key, piece.says
                ));
            };
            let name = (piece.key.as_str(), said);
            if piece.events.is_empty() || piece.events.iter().any(|it| start(it) != said) {
                return Err(format!("window {name:?} has {:?}", piece.events));
            }
            // What comes late after a restore at another parallelism may open a window again.
            if !piece.has_record_in_time() {
                continue;
            }
            let ids: BTreeSet<&str> = piece.events.iter().map(|it| it.id.as_str()).collect();
            if !in_time[&name].is_subset(&ids) {
                return Err(format!("window {name:?} has only {ids:?}"));
            }
            if !whole.insert(name) && promise != Promise::Repeated {
                return Err(format!("window {name:?} comes twice"));
            }
        }
        *seen.entry("window").or_default() += self.pieces.len() as u64;
        *seen.entry("record after its window").or_default() += self.late();
        Ok(())
    }

    /// Sessions are what their records make of them, and no two that are in time could be one.
    pub(crate) fn judge_sessions(
        &self,
        gap: i64,
        promise: Promise,
        seen: &mut Seen,
    ) -> Result<(), String> {
        for piece in &self.pieces {
            let times: Vec<i64> = piece.events.iter().map(|event| event.time).collect();
            let ends = times.first().zip(times.last());
            let says = ends.map(|(first, last)| vec![*first, last + gap]);
            let is_one = times.windows(2).all(|pair| pair[1] - pair[0] < gap);
            if !is_one || says.as_ref() != Some(&piece.says) {
                return Err(format!(
                    "a session says {:?}: {:?}",
                    piece.says, piece.events
                ));
            }
            if times.len() > 1 {
                *seen.entry("session of several").or_default() += 1;
            }
        }
        let mut by_key: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
        let mut all: Vec<&Event> = self.events.iter().collect();
        all.sort_by_key(|event| event.time);
        for event in all.into_iter().filter(|event| !event.may_be_late) {
            by_key.entry(&event.key).or_default().push(event);
        }
        for events in by_key.values() {
            for pair in events.windows(2) {
                let are_near = pair[1].time - pair[0].time < gap;
                if are_near && !self.share(pair[0], pair[1]) {
                    return Err(format!("no session has both of {pair:?}"));
                }
            }
        }
        *seen.entry("session").or_default() += self.pieces.len() as u64;
        *seen.entry("record after its session").or_default() += self.late();
        if promise == Promise::Repeated {
            return Ok(());
        }
        for (index, piece) in self.pieces.iter().enumerate() {
            for other in &self.pieces[..index] {
                let overlap = piece.key == other.key
                    && piece.says[0] < other.says[1]
                    && other.says[0] < piece.says[1];
                let may_be_late = |piece: &Piece| piece.events.iter().any(|it| it.may_be_late);
                if overlap && !may_be_late(piece) && !may_be_late(other) {
                    return Err(format!("{:?} and {:?} are one", piece.events, other.events));
                }
            }
        }
        Ok(())
    }

    /// Whether one session has both.
    fn share(&self, one: &Event, other: &Event) -> bool {
        let has = |piece: &Piece, event: &Event| piece.events.contains(event);
        self.pieces
            .iter()
            .any(|piece| has(piece, one) && has(piece, other))
    }
}
