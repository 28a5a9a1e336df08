//! What an operator emits.
//!
//! The key of a record is bytes, or the number of a key of the batch that the call is about. Numbers
//! become bytes when the call is over: so an operator that passes on its records' own keys moves four
//! bytes for each across its border, and where it emits one record for each it was given, the batch's
//! column of keys moves on as it is.

use dataflow::state::Resolved;
use dataflow::{Batch, Cells, CellsRef};

/// Stands in the place of a number for a key that was given as bytes.
const SPELT: u32 = u32::MAX;

/// What a call has emitted, per output port.
#[derive(Debug)]
pub struct Output {
    ports: Vec<Port>,
    /// The most bytes that the call may write: what is here, and `other`.
    limit: u64,
    /// What the call has written beside its output.
    other: u64,
}

impl Default for Output {
    fn default() -> Self {
        Self::new(0)
    }
}

#[derive(Debug, Default)]
struct Port {
    /// The records; of their keys only those that were given as bytes, until the call is settled.
    batch: Batch,
    /// For each record the number of its key, or [`SPELT`]. Empty as long as no key came as a number.
    numbers: Vec<u32>,
}

/// Why records could not be emitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EmitError {
    /// The operator has fewer outputs.
    #[error("there is no output {port}, the operator has {count}")]
    NoPort {
        /// The output asked for.
        port: u32,
        /// How many there are.
        count: u32,
    },
    /// A column is neither empty nor as long as the values.
    #[error("{values} values, but {others} {column}")]
    Uneven {
        /// Number of values.
        values: usize,
        /// Length of the other column.
        others: usize,
        /// Name of the other column.
        column: &'static str,
    },
    /// Keyed and unkeyed records on one output.
    #[error("output {0} got records with and without keys in one call")]
    Mixed(u32),
    /// The batch has fewer keys.
    #[error("there is no key {number} to emit, the batch has {count}")]
    NoKey {
        /// The number of the key.
        number: u32,
        /// How many keys there are.
        count: usize,
    },
    /// One call wrote more than the limit.
    #[error(
        "with the keys of its records, the call wrote more into state and output than limits.call-writes = \
         {} allows one call; if it has to, raise that limit in the job file",
        crate::text::size(*limit)
    )]
    TooMuch {
        /// The limit in bytes.
        limit: u64,
    },
    /// One output got more than a batch can hold.
    #[error("one call emitted more than {} MiB on output {port}", Output::PORT_BYTES_MAX >> 20)]
    TooMuchForPort {
        /// The output.
        port: u32,
    },
}

/// A limit as people write it.
impl Output {
    /// The most bytes of keys and values that one call may emit on all ports together, unless
    /// [`Output::set_limit`] says otherwise.
    pub const CALL_BYTES_MAX: u64 = 256 << 20;
    /// The most bytes of keys and values that one call may emit on one port, whatever the limit: a column
    /// holds less than 4 GiB.
    pub const PORT_BYTES_MAX: usize = 2 << 30;

    /// An empty output with `ports` ports.
    #[must_use]
    pub fn new(ports: u32) -> Self {
        Self {
            ports: (0..ports).map(|_| Port::default()).collect(),
            limit: Self::CALL_BYTES_MAX,
            other: 0,
        }
    }

    /// Sets how many bytes calls may write from now on: keys and values on all ports, and what
    /// [`Output::count_other`] is called with.
    pub fn set_limit(&mut self, bytes: u64) {
        self.limit = bytes;
    }

    /// Says how many bytes the current call has written beside its output. They count towards the limit when
    /// the call is settled.
    pub fn count_other(&mut self, bytes: u64) {
        self.other = bytes;
    }

    /// Bytes of the keys and values emitted on all ports. Keys given by number are not in it until the call is
    /// settled.
    #[must_use]
    pub fn byte_len(&self) -> u64 {
        let ports = self.ports.iter();
        ports.map(|port| port.batch.byte_len() as u64).sum()
    }

    /// Appends records to an output. `keys` and `timestamps` may be empty. The bytes are copied
    /// once, from wherever they lie.
    ///
    /// # Errors
    /// The columns do not fit each other, the port does not exist, or the call emits too much;
    /// nothing has been appended then.
    pub fn emit(
        &mut self,
        port: u32,
        keys: CellsRef<'_>,
        values: CellsRef<'_>,
        timestamps: &[i64],
    ) -> Result<(), EmitError> {
        let others = (!keys.is_empty()).then_some((keys.len(), "keys"));
        self.has_room(keys.byte_len() + values.byte_len())?;
        let to = self.port(port, values, others, timestamps)?;
        if values.is_empty() {
            return Ok(());
        }
        if !to.batch.is_empty() && to.is_keyed() == keys.is_empty() {
            return Err(EmitError::Mixed(port));
        }
        to.has_room(port, keys.byte_len() + values.byte_len())?;
        to.batch.extend(keys, values, timestamps);
        if !to.numbers.is_empty() {
            to.numbers.resize(to.batch.len(), SPELT);
        }
        Ok(())
    }

    /// Appends records with keys of the batch that the call is about, by number: the index in
    /// [`Resolved::keys`] or, if keys were not resolved, in the batch. `timestamps` may be empty.
    ///
    /// # Errors
    /// As [`Output::emit`]. A number that no key has is found by [`Output::settle`].
    pub fn emit_numbered(
        &mut self,
        port: u32,
        numbers: &[u32],
        values: CellsRef<'_>,
        timestamps: &[i64],
    ) -> Result<(), EmitError> {
        let others = Some((numbers.len(), "key numbers"));
        self.has_room(values.byte_len())?;
        let to = self.port(port, values, others, timestamps)?;
        if values.is_empty() {
            return Ok(());
        }
        if !to.batch.is_empty() && !to.is_keyed() {
            return Err(EmitError::Mixed(port));
        }
        to.has_room(port, values.byte_len())?;
        to.numbers.resize(to.batch.len(), SPELT);
        to.numbers.extend_from_slice(numbers);
        to.batch.extend(CellsRef::EMPTY, values, timestamps);
        Ok(())
    }

    fn has_room(&self, bytes: usize) -> Result<(), EmitError> {
        let written = self.byte_len().saturating_add(self.other);
        if written.saturating_add(bytes as u64) > self.limit {
            return Err(EmitError::TooMuch { limit: self.limit });
        }
        Ok(())
    }

    fn port(
        &mut self,
        port: u32,
        values: CellsRef<'_>,
        keys: Option<(usize, &'static str)>,
        timestamps: &[i64],
    ) -> Result<&mut Port, EmitError> {
        let count = self.ports.len() as u32;
        let to = self
            .ports
            .get_mut(port as usize)
            .ok_or(EmitError::NoPort { port, count })?;
        let timestamps = (!timestamps.is_empty()).then_some((timestamps.len(), "timestamps"));
        for (others, column) in keys.into_iter().chain(timestamps) {
            if others != values.len() {
                return Err(EmitError::Uneven {
                    values: values.len(),
                    others,
                    column,
                });
            }
        }
        Ok(to)
    }

    /// Gives the records that were emitted with numbers their keys: those of `batch`, which the call was
    /// about and which `resolved` numbers. Once, when the call has returned ok; `batch` may be without its
    /// keys afterwards.
    ///
    /// # Errors
    /// There is no key with one of the numbers, or with the keys the call has emitted too much. Nothing
    /// is changed then, and the call has failed.
    pub fn settle(&mut self, resolved: &Resolved, batch: &mut Batch) -> Result<(), EmitError> {
        let Some(last) = self.ports.iter().rposition(|port| !port.numbers.is_empty()) else {
            self.other = 0;
            return Ok(());
        };
        // Keys that were not resolved are those of the batch, one per record.
        let numbered = !resolved.keys.is_empty();
        let keys = if numbered {
            &resolved.keys
        } else {
            &batch.keys
        };
        let mut spelt_out = 0_usize;
        for (number, port) in self.ports[..=last].iter().enumerate() {
            let bytes = port.check(keys.as_ref())?;
            port.has_room(number as u32, bytes)?;
            spelt_out = spelt_out.saturating_add(bytes);
        }
        self.has_room(spelt_out)?;
        self.other = 0;
        let (last, others) = self.ports[..=last]
            .split_last_mut()
            .expect("there is a port with numbers");
        others.iter_mut().for_each(|port| port.spell_out(keys));
        let unchanged = last.batch.keys.is_empty()
            && last.numbers.len() == batch.keys.len()
            && if numbered {
                last.numbers == resolved.numbers
            } else {
                (0..)
                    .zip(&last.numbers)
                    .all(|(record, number)| record == *number)
            };
        if unchanged {
            last.numbers.clear();
            std::mem::swap(&mut last.batch.keys, &mut batch.keys);
            std::mem::swap(&mut last.batch.hashes, &mut batch.hashes);
        } else {
            last.spell_out(keys);
        }
        Ok(())
    }

    /// The records emitted on a port, with the keys that they have so far.
    #[must_use]
    pub fn batch(&self, port: u32) -> Option<&Batch> {
        self.ports.get(port as usize).map(|port| &port.batch)
    }

    /// Takes the records of a port that has some, once they have their keys, and leaves `empty` in their
    /// place. `None` of a port that there is not.
    pub fn take(&mut self, port: usize, empty: impl FnOnce() -> Batch) -> Option<Batch> {
        let batch = &mut self.ports.get_mut(port)?.batch;
        (!batch.is_empty()).then(|| std::mem::replace(batch, empty()))
    }

    /// Forgets what has been emitted.
    pub fn clear(&mut self) {
        for port in &mut self.ports {
            port.batch.clear();
            port.numbers.clear();
        }
        self.other = 0;
    }
}

impl Port {
    fn is_keyed(&self) -> bool {
        self.batch.is_keyed() || !self.numbers.is_empty()
    }

    fn has_room(&self, port: u32, bytes: usize) -> Result<(), EmitError> {
        if self.batch.byte_len().saturating_add(bytes) > Output::PORT_BYTES_MAX {
            return Err(EmitError::TooMuchForPort { port });
        }
        Ok(())
    }

    /// Checks that there is a key for each number. Returns how many bytes these keys have.
    fn check(&self, keys: CellsRef<'_>) -> Result<usize, EmitError> {
        let (mut bytes, mut spelt) = (0_usize, 0);
        for number in &self.numbers {
            if (*number as usize) < keys.len() {
                bytes += keys.get(*number as usize).len();
            } else if *number == SPELT && spelt < self.batch.keys.len() {
                spelt += 1;
            } else {
                return Err(EmitError::NoKey {
                    number: *number,
                    count: keys.len(),
                });
            }
        }
        Ok(bytes)
    }

    /// Puts the bytes of the keys in the place of their numbers.
    fn spell_out(&mut self, keys: &Cells) {
        if self.numbers.is_empty() {
            return;
        }
        let spelt = std::mem::take(&mut self.batch.keys);
        let mut spelt = spelt.iter();
        for number in self.numbers.drain(..) {
            let key = match number {
                SPELT => spelt.next().unwrap_or_default(),
                number => keys.get(number as usize),
            };
            self.batch.keys.push(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(cells: &[&str]) -> Cells {
        cells.iter().map(|cell| cell.as_bytes()).collect()
    }

    fn batch(keys: &[&str]) -> Batch {
        let mut batch = Batch::default();
        for key in keys {
            batch.push(Some(key.as_bytes()), b"in", 1);
        }
        batch.compute_hashes();
        batch
    }

    /// A batch as the runtime hands it to an operator with keyed state.
    fn resolved(batch: &Batch) -> Resolved {
        let mut resolved = Resolved::default();
        for key in batch.keys.iter() {
            let known = resolved.keys.iter().position(|other| other == key);
            let number = known.unwrap_or(resolved.keys.len());
            if known.is_none() {
                resolved.keys.push(key);
            }
            resolved.numbers.push(number as u32);
        }
        resolved
    }

    fn emit_numbered(output: &mut Output, port: u32, numbers: &[u32]) -> Result<(), EmitError> {
        let values: Cells = numbers.iter().map(|_| &b"out"[..]).collect();
        output.emit_numbered(port, numbers, values.as_ref(), &[])
    }

    #[test]
    fn a_record_for_each_takes_the_keys_along() {
        for stateless in [false, true] {
            let mut batch = batch(&["a", "b", "a"]);
            let (keys, hashes) = (batch.keys.clone(), batch.hashes.clone());
            let resolved = if stateless {
                Resolved::default()
            } else {
                resolved(&batch)
            };
            let numbers: &[u32] = if stateless { &[0, 1, 2] } else { &[0, 1, 0] };
            let mut output = Output::new(1);
            emit_numbered(&mut output, 0, &numbers[..2]).unwrap();
            emit_numbered(&mut output, 0, &numbers[2..]).unwrap();
            output.settle(&resolved, &mut batch).unwrap();
            let emitted = output.take(0, Batch::default).unwrap();
            assert_eq!((emitted.keys, emitted.hashes), (keys, hashes));
            assert!(batch.keys.is_empty() && batch.hashes.is_empty());
        }
    }

    #[test]
    fn every_port_gets_its_keys_in_the_order_of_its_records() {
        for stateless in [false, true] {
            let mut batch = batch(&["a", "b", "c"]);
            let resolved = if stateless {
                Resolved::default()
            } else {
                resolved(&batch)
            };
            let mut output = Output::new(4);
            emit_numbered(&mut output, 0, &[0, 1, 2]).unwrap();
            emit_numbered(&mut output, 1, &[2, 2, 0]).unwrap();
            let (keys, values) = (cells(&["x", "y"]), cells(&["1", "2"]));
            output.emit(2, keys.as_ref(), values.as_ref(), &[]).unwrap();
            emit_numbered(&mut output, 2, &[1]).unwrap();
            output
                .emit(2, keys.as_ref(), values.as_ref(), &[7, 8])
                .unwrap();
            emit_numbered(&mut output, 3, &[0, 1, 2]).unwrap();
            output.settle(&resolved, &mut batch).unwrap();
            let wanted = [
                &["a", "b", "c"][..],
                &["c", "c", "a"],
                &["x", "y", "b", "x", "y"],
                &["a", "b", "c"],
            ];
            for (port, wanted) in wanted.iter().enumerate() {
                let emitted = output.take(port, Batch::default).unwrap();
                assert_eq!(emitted.keys, cells(wanted), "port {port}");
                assert_eq!(emitted.values.len(), wanted.len());
                let hashes = emitted.hashes.len();
                assert!(hashes == 0 || hashes == wanted.len());
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let mut output = Output::new(1);
        assert_eq!(
            emit_numbered(&mut output, 1, &[0]),
            Err(EmitError::NoPort { port: 1, count: 1 })
        );
        let one = cells(&["1"]);
        assert!(matches!(
            output.emit_numbered(0, &[0, 0], one.as_ref(), &[]),
            Err(EmitError::Uneven {
                values: 1,
                others: 2,
                column: "key numbers"
            })
        ));
        output.emit(0, CellsRef::EMPTY, one.as_ref(), &[]).unwrap();
        assert_eq!(
            emit_numbered(&mut output, 0, &[0]),
            Err(EmitError::Mixed(0))
        );
        output.clear();
        emit_numbered(&mut output, 0, &[0]).unwrap();
        assert_eq!(
            output.emit(0, CellsRef::EMPTY, one.as_ref(), &[]),
            Err(EmitError::Mixed(0))
        );
    }

    #[test]
    fn a_number_without_a_key_fails_the_call() {
        for number in [2, u32::MAX] {
            let mut output = Output::new(2);
            emit_numbered(&mut output, 0, &[0]).unwrap();
            emit_numbered(&mut output, 1, &[0, number]).unwrap();
            let mut batch = batch(&["a", "b"]);
            let resolved = resolved(&batch);
            let failed = output.settle(&resolved, &mut batch);
            assert_eq!(failed, Err(EmitError::NoKey { number, count: 2 }));
            assert_eq!(batch.keys, cells(&["a", "b"]));
        }
        // At the end of input there is no batch.
        let mut output = Output::new(1);
        emit_numbered(&mut output, 0, &[0]).unwrap();
        let failed = output.settle(&Resolved::default(), &mut Batch::default());
        assert_eq!(
            failed,
            Err(EmitError::NoKey {
                number: 0,
                count: 0
            })
        );
    }

    #[test]
    fn keys_count_towards_the_limit_before_they_are_copied() {
        let mut batch = Batch::default();
        batch.push(Some(&[0; 1 << 20]), b"in", 1);
        let mut output = Output::new(1);
        emit_numbered(&mut output, 0, &[0; 257]).unwrap();
        let failed = output.settle(&Resolved::default(), &mut batch);
        let limit = Output::CALL_BYTES_MAX;
        assert_eq!(failed, Err(EmitError::TooMuch { limit }));
    }

    #[test]
    fn c160_the_limit_is_on_all_ports_together_and_on_what_else_the_call_wrote() {
        let limit = 100;
        let too_much = Err(EmitError::TooMuch { limit });
        let value = cells(&["ten bytes."]);
        let emit =
            |output: &mut Output, port| output.emit(port, CellsRef::EMPTY, value.as_ref(), &[]);
        let mut output = Output::new(3);
        output.set_limit(limit);
        for number in 0..10 {
            assert_eq!(emit(&mut output, number % 2), Ok(()));
        }
        assert_eq!(emit(&mut output, 2), too_much);
        assert_eq!(output.byte_len(), limit);
        output.clear();
        assert_eq!(emit(&mut output, 2), Ok(()));

        // Keys by number count on every port, once they are known.
        for (other, fits) in [(64, true), (65, false)] {
            let mut batch = batch(&["a key of 15 byt"]);
            let resolved = resolved(&batch);
            let mut output = Output::new(2);
            output.set_limit(limit);
            for port in 0..2 {
                emit_numbered(&mut output, port, &[0]).unwrap();
            }
            output.count_other(other);
            let settled = output.settle(&resolved, &mut batch);
            assert_eq!(settled.is_ok(), fits, "{settled:?}");
            assert!(fits || settled == too_much);
        }
    }
}
