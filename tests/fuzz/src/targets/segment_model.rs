//! What segments hold, read in the plainest way. Written from `docs/checkpoint-format.md`; shares no code with
//! what reads them, but for the hash of keys.

use std::collections::{BTreeMap, BTreeSet};

/// A segment of one subtask, decompressed, and what is said of it.
pub(super) struct Said<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) written_by: u64,
    /// The checkpoint that wrote the one before it; 0 if there is none.
    pub(super) after: u64,
    pub(super) delta: bool,
    pub(super) key_groups: u32,
    /// First key group, and the one after the last.
    pub(super) range: (u32, u32),
    /// Names and kinds, as the header writes them.
    pub(super) states: &'a [(&'a str, u8)],
}

/// What a key has in a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Held {
    Value(Vec<u8>),
    Map(BTreeMap<Vec<u8>, Vec<u8>>),
    List(Vec<Vec<u8>>),
}

/// By key group, number of the state and key.
pub(super) type Contents = BTreeMap<(u32, usize, Vec<u8>), Held>;

/// Key group, state, key, field, place in a list, value.
pub(super) type Flat = (u32, u32, Vec<u8>, Option<Vec<u8>>, Option<u64>, Vec<u8>);

/// In the order in which state is walked.
pub(super) fn flat(contents: &Contents) -> Vec<Flat> {
    let mut all = Vec::new();
    for ((group, state, key), held) in contents {
        let mut push = |field: Option<&Vec<u8>>, index, value: &Vec<u8>| {
            let (state, field) = (*state as u32, field.cloned());
            all.push((*group, state, key.clone(), field, index, value.clone()));
        };
        match held {
            Held::Value(value) => push(None, None, value),
            Held::Map(map) => map
                .iter()
                .for_each(|(field, value)| push(Some(field), None, value)),
            Held::List(list) => (0..)
                .zip(list)
                .for_each(|(index, it)| push(None, Some(index), it)),
        }
    }
    all
}

/// Entries of each of the first `states` states, and bytes of their values, fields and keys.
pub(super) fn amounts(contents: &Contents, states: usize) -> Vec<(u64, u64)> {
    let mut amounts = vec![(0, 0); states];
    for ((_, state, key), held) in contents {
        let (entries, bytes) = match held {
            Held::Value(value) => (1, value.len()),
            Held::Map(map) => (map.len(), map.iter().map(|(a, b)| a.len() + b.len()).sum()),
            Held::List(list) => (list.len(), list.iter().map(Vec::len).sum()),
        };
        amounts[*state].0 += entries as u64;
        amounts[*state].1 += (bytes + if entries > 0 { key.len() } else { 0 }) as u64;
    }
    amounts
}

type Read<T> = Result<T, &'static str>;

/// Takes from the front; `None` if there is not enough or it cannot be.
struct Taker<'a>(&'a [u8]);

impl<'a> Taker<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, width: usize) -> Option<u64> {
        let bytes = self.bytes(width)?;
        Some(
            bytes
                .iter()
                .rev()
                .fold(0, |all, byte| all << 8 | u64::from(*byte)),
        )
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u128;
        for shift in (0..70).step_by(7) {
            let byte = self.number(1)? as u8;
            value |= u128::from(byte & 127) << shift;
            if byte < 128 {
                let needless = byte == 0 && shift > 0;
                return u64::try_from(value).ok().filter(|_| !needless);
            }
        }
        None
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        let count = usize::try_from(self.varint()?).ok()?;
        self.bytes(count)
    }

    fn entry(&mut self, block: u64) -> Option<Entry> {
        let mut own = |wanted| match wanted {
            true => self.string().map(<[u8]>::to_vec),
            false => Some(Vec::new()),
        };
        let key = own(true)?;
        let field = own([3, 6].contains(&block))?;
        let mut values = Vec::new();
        if [2, 3].contains(&block) {
            values.push(own(true)?);
        }
        let mut starts = false;
        if block == 4 {
            starts = [false, true].get(self.number(1)? as usize).copied()?;
            for _ in 0..self.varint()? {
                values.push(self.string()?.to_vec());
            }
        }
        Some(Entry {
            key,
            field,
            values,
            starts,
        })
    }
}

struct Entry {
    key: Vec<u8>,
    field: Vec<u8>,
    values: Vec<Vec<u8>>,
    starts: bool,
}

/// The payloads of all blocks.
fn payloads(bytes: &[u8]) -> Read<Vec<&[u8]>> {
    let mut taker = Taker(bytes);
    if taker.bytes(8) != Some(b"\x89HWSEG\r\n") || taker.number(4) != Some(1) {
        return Err("the start");
    }
    let mut blocks = Vec::new();
    while !taker.0.is_empty() {
        let (length, checksum) = taker.number(4).zip(taker.number(4)).ok_or("a frame")?;
        if !(1..=1 << 20).contains(&length) {
            return Err("the length of a block");
        }
        let payload = taker.bytes(length as usize).ok_or("a block that is cut")?;
        let numbered = [&(blocks.len() as u32).to_le_bytes(), payload].concat();
        if u64::from(crc32c::crc32c(&numbered)) != checksum {
            return Err("a checksum");
        }
        blocks.push(payload);
    }
    Ok(blocks)
}

/// The names of the states in a header, as far as it is what is said of it.
fn header(whole: &[u8], said: &Said<'_>) -> Option<Read<Vec<usize>>> {
    let mut taker = Taker(whole);
    let delta = taker.number(1)?;
    let (checkpoint, base) = (taker.number(8)?, taker.number(8)?);
    let groups = taker.number(4)?;
    let range = (taker.number(4)?, taker.number(4)?);
    let hash = taker.string()?;
    let mut names = Vec::new();
    let mut states = Vec::new();
    for _ in 0..taker.varint()? {
        let (name, kind) = (taker.string()?, taker.number(1)?);
        taker.varint()?;
        names.push(name);
        let is_it = |it: &(&str, u8)| it.0.as_bytes() == name && u64::from(it.1) == kind;
        states.push(said.states.iter().position(is_it));
    }
    let once: BTreeSet<_> = names.iter().collect();
    let base_fits = match said.delta {
        true => base >= said.after && base < said.written_by,
        false => base == 0,
    };
    let fits = delta == u64::from(said.delta)
        && base_fits
        && checkpoint == said.written_by
        && groups == u64::from(said.key_groups)
        && range == (u64::from(said.range.0), u64::from(said.range.1))
        && hash == b"xxh3-64"
        && once.len() == names.len()
        && taker.0.is_empty();
    Some(match states.into_iter().collect::<Option<Vec<usize>>>() {
        Some(states) if fits => Ok(states),
        _ => Err("the header"),
    })
}

/// Applies one segment after the other. Why one cannot be, otherwise.
pub(super) fn read(segments: &[Said<'_>]) -> Read<Contents> {
    let mut contents = Contents::new();
    for said in segments {
        apply(said, &mut contents)?;
    }
    // A list or map without elements is none.
    contents.retain(|_, held| match held {
        Held::Value(_) => true,
        Held::Map(map) => !map.is_empty(),
        Held::List(list) => !list.is_empty(),
    });
    Ok(contents)
}

fn apply(said: &Said<'_>, contents: &mut Contents) -> Read<()> {
    let payloads = payloads(said.bytes)?;
    let mut at = 0;
    // A block with as many continuations as `whole` needs.
    let mut next = |whole: &dyn Fn(&[u8]) -> bool| -> Read<Vec<u8>> {
        let mut payload = payloads.get(at).ok_or("there is no end")?.to_vec();
        at += 1;
        while !whole(&payload) {
            let more = payloads.get(at).and_then(|more| more.strip_prefix(&[7]));
            payload.extend_from_slice(more.ok_or("an entry that is cut")?);
            at += 1;
        }
        Ok(payload)
    };
    let first = next(&|payload| payload[0] != 1 || header(&payload[1..], said).is_some())?;
    if first[0] != 1 {
        return Err("there is no header");
    }
    let states = header(&first[1..], said).ok_or("the header is cut")??;
    let mut began = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut total = 0;
    loop {
        let payload = next(&|payload| {
            let mut taker = Taker(&payload[1..]);
            let count = taker.number(4).and_then(|_| taker.number(4));
            let continues = (2..=6).contains(&payload[0]) && count == Some(1);
            !continues || taker.entry(u64::from(payload[0])).is_some()
        })?;
        let block = u64::from(payload[0]);
        let mut taker = Taker(&payload[1..]);
        if block == 255 {
            let totals = (taker.number(8), taker.number(8));
            let expected = (Some(total), Some(payloads.len() as u64));
            let ends = totals == expected && taker.0.is_empty();
            return if ends { Ok(()) } else { Err("the end") };
        }
        if !(2..=6).contains(&block) {
            return Err("a block that cannot be here");
        }
        let (number, count) = taker
            .number(4)
            .zip(taker.number(4))
            .ok_or("a block that is cut")?;
        let state = *states.get(number as usize).ok_or("no such state")?;
        let fits = match said.states[state].1 {
            0 => [2, 5].contains(&block),
            1 => [3, 5, 6].contains(&block),
            _ => [4, 5].contains(&block),
        };
        let removes = block > 4;
        if !fits || (removes && (!said.delta || began.contains(&number))) {
            return Err("a block that does not fit");
        }
        if !removes {
            began.insert(number);
        }
        total += count;
        for _ in 0..count {
            let Entry {
                key,
                field,
                values,
                starts,
            } = taker.entry(block).ok_or("an entry")?;
            let hash = xxhash_rust::xxh3::xxh3_64(&key);
            let group = (hash % u64::from(said.key_groups)) as u32;
            if !(said.range.0..said.range.1).contains(&group) {
                return Err("a key of another key group");
            }
            let once = [2, 3].contains(&block) && !said.delta;
            if once && !seen.insert((number, key.clone(), field.clone())) {
                return Err("an entry that comes twice");
            }
            let place = (group, state, key);
            match block {
                2 => drop(contents.insert(place, Held::Value(values.concat()))),
                5 => drop(contents.remove(&place)),
                3 | 6 => {
                    let held = contents.entry(place).or_insert(Held::Map(BTreeMap::new()));
                    if let Held::Map(map) = held {
                        match block {
                            3 => drop(map.insert(field, values.concat())),
                            _ => drop(map.remove(&field)),
                        }
                    }
                }
                _ => {
                    let held = contents.entry(place).or_insert(Held::List(Vec::new()));
                    if let Held::List(list) = held {
                        if starts {
                            list.clear();
                        }
                        list.extend(values);
                    }
                }
            }
        }
        if !taker.0.is_empty() {
            return Err("a block with more than its entries");
        }
    }
}

/// Decompresses blocks. Why they are none, otherwise.
pub(super) fn decompressed(
    bytes: &[u8],
    raw_length: u64,
    by: fn(&[u8], usize) -> Option<Vec<u8>>,
) -> Read<Vec<u8>> {
    let mut taker = Taker(bytes);
    let mut all = Vec::new();
    while !taker.0.is_empty() {
        let start = taker.0;
        let sizes = taker.number(4).zip(taker.number(4));
        let ((stored, raw), checksum) = sizes.zip(taker.number(4)).ok_or("a head")?;
        if !(1..=raw).contains(&stored) || raw > 1 << 20 {
            return Err("the length of a block");
        }
        let payload = taker.bytes(stored as usize).ok_or("a block that is cut")?;
        let covered = [&start[..8], payload].concat();
        if u64::from(crc32c::crc32c(&covered)) != checksum {
            return Err("a checksum");
        }
        let block = match stored == raw {
            true => payload.to_vec(),
            false => by(payload, raw as usize).ok_or("what is compressed")?,
        };
        if block.len() as u64 != raw {
            return Err("what is compressed has another length");
        }
        all.extend_from_slice(&block);
    }
    (all.len() as u64 == raw_length)
        .then_some(all)
        .ok_or("the length of all")
}
