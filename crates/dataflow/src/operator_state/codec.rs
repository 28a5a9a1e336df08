//! The bytes of a subtask's operator state in a checkpoint; see `docs/checkpoint-format.md`.
//!
//! Every length is compared with the bytes that are left before anything is allocated or sliced by it, and what is
//! written is in one order only, so that equal state has equal bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Scope, SealedOperatorState, Shared, Table};
use crate::element::CheckpointId;

/// The first bytes.
const MAGIC: [u8; 8] = *b"HWOPST\r\n";
/// Of the checksum at the end.
const CHECKSUM_BYTES: usize = 4;

/// Who wrote it: part of the bytes, so that what was put in another's place is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Author {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// The subtask.
    pub subtask: u32,
    /// Of how many.
    pub parallelism: u32,
}

/// What is wrong with the bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Corrupt(pub String);

/// A state as it was decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    pub(super) name: String,
    pub(super) scope: Scope,
    pub(super) table: Table,
}

fn code(scope: Scope) -> u8 {
    match scope {
        Scope::Split => 0,
        Scope::Union => 1,
        Scope::Broadcast => 2,
    }
}

impl SealedOperatorState {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self, author: Author) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64 + usize::try_from(self.bytes).unwrap_or(0));
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&author.checkpoint.0.to_le_bytes());
        bytes.extend_from_slice(&author.subtask.to_le_bytes());
        bytes.extend_from_slice(&author.parallelism.to_le_bytes());
        number(&mut bytes, self.tables.len());
        for (state, table) in self.descriptors.iter().zip(&self.tables) {
            bytes.push(code(state.scope));
            string(&mut bytes, state.name.as_bytes());
            match table {
                Table::List(list) => {
                    number(&mut bytes, list.len());
                    list.iter().for_each(|element| string(&mut bytes, element));
                }
                Table::Map(map) => {
                    number(&mut bytes, map.len());
                    for (field, value) in map.iter() {
                        string(&mut bytes, field);
                        string(&mut bytes, value);
                    }
                }
            }
        }
        let checksum = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

/// Entries and their bytes are limited far below 4 GiB by what a state may grow to, and names by who declares
/// them.
fn number(to: &mut Vec<u8>, number: usize) {
    let number = u32::try_from(number).expect("operator state is limited");
    to.extend_from_slice(&number.to_le_bytes());
}

fn string(to: &mut Vec<u8>, bytes: &[u8]) {
    number(to, bytes.len());
    to.extend_from_slice(bytes);
}

/// What is left to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Corrupt> {
        let short = || Corrupt("it is cut short".to_owned());
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u32(&mut self) -> Result<u32, Corrupt> {
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four of them")))
    }

    fn u64(&mut self) -> Result<u64, Corrupt> {
        let bytes = self.take(8)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight of them")))
    }

    fn string(&mut self) -> Result<&'a [u8], Corrupt> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    /// A number of things that take at least `each` bytes.
    fn count(&mut self, each: usize) -> Result<usize, Corrupt> {
        let count = self.u32()? as usize;
        match count.checked_mul(each) {
            Some(bytes) if bytes <= self.0.len() => Ok(count),
            _ => Err(Corrupt(format!(
                "it claims to have {count} entries in {} bytes",
                self.0.len()
            ))),
        }
    }
}

/// Reads what [`SealedOperatorState::encode`] wrote.
pub(super) fn decode(bytes: &[u8], author: Author) -> Result<Vec<Decoded>, Corrupt> {
    let body = bytes.len().checked_sub(CHECKSUM_BYTES);
    let (body, checksum) = bytes
        .split_at_checked(body.unwrap_or(0))
        .filter(|(_, checksum)| checksum.len() == CHECKSUM_BYTES)
        .ok_or_else(|| Corrupt("it is cut short".to_owned()))?;
    if crc32c::crc32c(body).to_le_bytes() != checksum {
        return Err(Corrupt("it does not match its checksum".to_owned()));
    }
    let mut rest = Rest(body);
    if rest.take(MAGIC.len())? != MAGIC {
        return Err(Corrupt("it is not operator state".to_owned()));
    }
    let found = Author {
        checkpoint: CheckpointId(rest.u64()?),
        subtask: rest.u32()?,
        parallelism: rest.u32()?,
    };
    if found != author {
        return Err(Corrupt(format!(
            "it is that of subtask {} of {} in checkpoint {}, not of subtask {} of {} in checkpoint {}",
            found.subtask,
            found.parallelism,
            found.checkpoint,
            author.subtask,
            author.parallelism,
            author.checkpoint
        )));
    }
    // A scope, a name, a number of entries.
    let count = rest.count(1 + 4 + 4)?;
    let mut states: Vec<Decoded> = Vec::with_capacity(count);
    for _ in 0..count {
        let state = state(&mut rest)?;
        if states.iter().any(|other| other.name == state.name) {
            return Err(Corrupt(format!(
                "it has state `{}` twice",
                state.name.escape_debug()
            )));
        }
        states.push(state);
    }
    match rest.0.len() {
        0 => Ok(states),
        more => Err(Corrupt(format!("{more} bytes do not belong to it"))),
    }
}

fn state(rest: &mut Rest<'_>) -> Result<Decoded, Corrupt> {
    let code = rest.take(1)?[0];
    let scope = Scope::ALL
        .into_iter()
        .find(|scope| self::code(*scope) == code);
    let scope =
        scope.ok_or_else(|| Corrupt(format!("it has a state of the unknown scope {code}")))?;
    let name = std::str::from_utf8(rest.string()?);
    let name = name.map_err(|_| Corrupt("the name of a state is no text".to_owned()))?;
    let table = match scope.is_map() {
        false => {
            let count = rest.count(4)?;
            let mut list: Vec<Shared> = Vec::with_capacity(count);
            for _ in 0..count {
                list.push(rest.string()?.into());
            }
            Table::List(Arc::new(list))
        }
        true => {
            let count = rest.count(8)?;
            let mut map: BTreeMap<Shared, Shared> = BTreeMap::new();
            for _ in 0..count {
                let field = rest.string()?;
                if map
                    .last_key_value()
                    .is_some_and(|(last, _)| &last[..] >= field)
                {
                    return Err(Corrupt("the fields of a map are not in order".to_owned()));
                }
                map.insert(field.into(), rest.string()?.into());
            }
            Table::Map(Arc::new(map))
        }
    };
    Ok(Decoded {
        name: name.to_owned(),
        scope,
        table,
    })
}
