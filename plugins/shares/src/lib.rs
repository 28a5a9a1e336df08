//! Shares what every subtask gets out among the subtasks, to show (and to test) operator state. It wants an input with
//! `partition = "broadcast"`.
//!
//! Each record belongs to one subtask, by a hash of its value. That subtask puts its first word on two lists: `split`,
//! which is cut into equal parts when the job is rescaled, and `union`, of which every subtask gets all elements when
//! the job starts from a checkpoint: then each keeps what is its own. `counts` has how often each first word came, the
//! same on every subtask.
//!
//! The first call of a subtask that was restored emits `restored,<subtask>,<elements of union>`, and the end of the input
//! `split,<subtask>,<word>` and `union,<subtask>,<word>` for each element, and `counts,<subtask>,<word>,<count>`.

use highwater::{BroadcastState, Emitter, OpenContext, Operator, OperatorList, Record, Result};

struct Shares {
    subtask: u32,
    parallelism: u32,
    /// Whether `union` still has the elements of all subtasks.
    restored: bool,
    split: OperatorList<String>,
    union: OperatorList<String>,
    counts: BroadcastState<String, u64>,
}

/// FNV-1a.
fn hash(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

impl Shares {
    fn is_own(&self, text: &str) -> bool {
        // The low bits of this hash say little.
        (hash(text) >> 32) % u64::from(self.parallelism) == u64::from(self.subtask)
    }

    /// After a restore: what is on the list of all is shared out again.
    fn take_over(&mut self, out: &mut Emitter) -> Result<()> {
        if !std::mem::take(&mut self.restored) {
            return Ok(());
        }
        let all = self.union.get()?;
        out.emit_unkeyed(("restored", self.subtask, all.len() as u64))?;
        self.union.set(all.iter().filter(|word| self.is_own(word)))
    }
}

impl Operator for Shares {
    fn open(ctx: &mut OpenContext) -> Result<Self> {
        ctx.output("out").unkeyed();
        Ok(Self {
            subtask: ctx.subtask(),
            parallelism: ctx.parallelism(),
            restored: ctx.is_restored(),
            split: ctx.operator_list("split"),
            union: ctx.union_list("union"),
            counts: ctx.broadcast("counts"),
        })
    }

    fn process(&mut self, record: Record, out: &mut Emitter) -> Result<()> {
        self.take_over(out)?;
        let line = record.text()?;
        let word = line
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .to_owned();
        let count = self.counts.get(&word)?.unwrap_or(0) + 1;
        self.counts.insert(&word, &count)?;
        if self.is_own(&word) {
            self.split.push(&word)?;
            self.union.push(&word)?;
        }
        Ok(())
    }

    fn end_of_input(&mut self, _input: u32, out: &mut Emitter) -> Result<()> {
        self.take_over(out)?;
        for word in self.split.get()? {
            out.emit_unkeyed(("split", self.subtask, word))?;
        }
        for word in self.union.get()? {
            out.emit_unkeyed(("union", self.subtask, word))?;
        }
        for entry in self.counts.iter() {
            let (word, count) = entry?;
            out.emit_unkeyed(("counts", self.subtask, word, count))?;
        }
        Ok(())
    }
}

highwater::export!(Shares);

#[cfg(test)]
mod tests {
    use super::*;
    use highwater::testing::Harness;

    #[test]
    fn each_record_is_on_the_lists_of_one_subtask_and_counted_on_all() {
        let mut lists = Vec::new();
        for subtask in 0..3 {
            let setup = Harness::<Shares>::setup().lines().subtask(subtask, 3);
            let mut shares = setup.open().unwrap();
            shares
                .process_unkeyed(&["a 1", "b 2", "c 3", "a 4"])
                .unwrap();
            shares.restart().unwrap();
            shares.process_unkeyed(&["d 5"]).unwrap();
            shares.end_of_input(0).unwrap();
            let rows = shares.take_rows();
            let counts = ["a,2", "b,1", "c,1", "d,1"];
            assert!(rows.ends_with(&counts.map(|row| format!("counts,{subtask},{row}"))));
            lists.extend(shares.operator_list::<String>("split").unwrap());
            assert!(rows.contains(&format!(
                "restored,{subtask},{}",
                lists_of(&rows) - own_d(&rows)
            )));
        }
        lists.sort();
        assert_eq!(lists, ["a", "a", "b", "c", "d"]);
    }

    fn lists_of(rows: &[String]) -> usize {
        rows.iter().filter(|row| row.starts_with("union")).count()
    }

    fn own_d(rows: &[String]) -> usize {
        rows.iter()
            .filter(|row| row.starts_with("union") && row.ends_with(",d"))
            .count()
    }
}
