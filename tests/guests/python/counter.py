"""Counts the records of each key: `plugins/count` with `emit = "final"`, in Python.

The state has the name and the encoding of the Rust one, so each goes on with the counts of the other.
"""

from componentize_py_types import Err
from wit_world import exports
from wit_world.exports.guest import Description, OpenContext, StateDescriptor, StateKind, StateScope
from wit_world.imports import output, state
from wit_world.imports.types import (
    Batch,
    Cells,
    Column,
    ColumnKind,
    Failure,
    FailureKind,
    Fired,
    Format_Row,
    Port,
)

COUNT = 0
OUT = 0


def cells(values):
    """A column of byte strings."""
    offsets = [0]
    for value in values:
        offsets.append(offsets[-1] + len(value))
    return Cells(b"".join(values), offsets)


def numbers(column):
    """The counts of a column; an empty cell is 0."""
    data, offsets = column.data, column.offsets
    return [
        int.from_bytes(data[start:end], "little") for start, end in zip(offsets, offsets[1:])
    ]


def failure(message):
    return Err(Failure(FailureKind.CONFIG, message, None))


class Guest(exports.Guest):
    def describe(self, config: str) -> Description:
        if config != "{}":
            raise failure("this counter has no configuration")
        word = [Column("word", ColumnKind.TEXT)]
        count = [Column("count", ColumnKind.INTEGER)]
        return Description(
            inputs=[],
            outputs=[Port("out", True, word, Format_Row(count))],
            states=[
                StateDescriptor("count", StateKind.VALUE, StateScope.KEYED, "u64", 1, None)
            ],
            uses_timers=False,
        )

    def open(self, context: OpenContext) -> None:
        print(f"counting in Python, subtask {context.subtask}")

    def process(self, batch: Batch) -> None:
        counts = numbers(state.load(COUNT).values)
        for number in batch.key_numbers:
            counts[number] += 1
        written = [count.to_bytes(8, "little") for count in counts]
        state.store(COUNT, list(range(len(counts))), cells(written))

    def end_of_input(self, input: int) -> None:
        cursor, more = b"", True
        while more:
            page = state.scan(COUNT, cursor, 4096)
            rows = [str(count).encode() for count in numbers(page.values)]
            output.emit(OUT, page.keys, cells(rows), [])
            cursor, more = page.cursor, page.more

    def on_timers(self, fired: Fired) -> None:
        pass

    def on_watermark(self, watermark: int) -> None:
        pass

    def on_checkpoint_complete(self, checkpoint: int) -> None:
        pass

    def migrate(self, state: int, from_version: int, values: Cells) -> Cells:
        raise failure("no older version of the state is known")

    def close(self) -> None:
        pass
