#!/usr/bin/env python3
"""Reads a checkpoint and prints every entry of its state, like `host checkpoints export`.

Written from docs/checkpoint-format.md alone, and sharing no code with the host: if the two disagree,
the document is wrong, or one of them. It follows the document's order, and names its sections.

    python3 reader.py CHECKPOINT

Exit codes: 0 all is printed, 2 it is not there or of a later format, 3 it is corrupt. It reads all state
before it prints, and prints nothing of a bad checkpoint.
"""

import json
import math
import re
import struct
import sys
from decimal import Decimal
from pathlib import Path

import xxhash

BLOCK_MAX = 1 << 20
NUMBER_MAX = (1 << 63) - 1


class Corrupt(Exception):
    """The bytes are not those that were written, or what they say cannot be true."""

    code = 3


class Later(Exception):
    """A later version wrote it, or a program of another kind."""

    code = 2


class Absent(Exception):
    """There is no completed checkpoint."""

    code = 2


def check(holds, complaint):
    if not holds:
        raise Corrupt(complaint)


# --- Checksums -----------------------------------------------------------------------------------


def _crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC_TABLE = _crc_table()


def crc32c(data):
    crc, table = 0xFFFFFFFF, CRC_TABLE
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


# --- `_metadata` ---------------------------------------------------------------------------------


def read_metadata(data):
    """The format version, the body and the inline bytes."""
    if data[:8] == b"HWVOID\r\n":
        raise Absent("_metadata: a void marker, the checkpoint never completed")
    check(data[:8] == b"HWCKPT\r\n", "not checkpoint metadata")
    check(len(data) >= 12, "_metadata: truncated")
    (version,) = struct.unpack_from("<I", data, 8)
    check(version != 0, "_metadata: format version 0")
    if version > 3:
        check(not one_bit_away(data, version), f"_metadata: format version {version} is damage")
        raise Later(f"_metadata: format version {version}, this reader knows 1 to 3")
    check(len(data) <= 1 << 30, "_metadata: larger than 1 GiB")
    end, parts = 12, []
    for _ in range(2):
        check(len(data) - end >= 8, "_metadata: truncated")
        (length,) = struct.unpack_from("<Q", data, end)
        end += 8
        check(len(data) - end >= length, "_metadata: truncated")
        parts.append(data[end : end + length])
        end += length
    check(len(data) - end >= 4, "_metadata: truncated")
    check(len(data) - end == 4, "_metadata: bytes after its end")
    check(struct.unpack_from("<I", data, end)[0] == crc32c(data[:end]), "_metadata: checksum")
    body, inline = parts
    return version, parse_json(body), inline


def one_bit_away(data, version):
    """Whether the checksum fits as soon as one bit of the version is turned."""
    for known in (1, 2, 3):
        restored = data[:8] + struct.pack("<I", known) + data[12:-4]
        if (version ^ known).bit_count() == 1 and data[-4:] == struct.pack("<I", crc32c(restored)):
            return True
    return False


def parse_json(body):
    def once(pairs):
        fields = dict(pairs)
        check(len(fields) == len(pairs), "the body has a field twice")
        return fields

    def no_number(text):
        raise Corrupt(f"the body has {text}")

    try:
        return json.loads(body.decode(), object_pairs_hook=once, parse_constant=no_number)
    except (ValueError, RecursionError) as error:
        raise Corrupt(f"the body is not JSON: {error}") from error


# --- The body, and what is refused ---------------------------------------------------------------


def number(value, most=NUMBER_MAX, least=0):
    return type(value) is int and least <= value <= most


def text(value):
    return isinstance(value, str)


def flag(value):
    return isinstance(value, bool)


def signed(value):
    return number(value, least=-NUMBER_MAX - 1)


def u32(value):
    return number(value, (1 << 32) - 1)


def array(value):
    return isinstance(value, list)


def table(value):
    return isinstance(value, dict)


def anything(_):
    return True


# By field: what its value must be, and whether it may be null or missing.
BODY = {
    "writer": (text, False), "job-name": (text, False), "job-id": (text, False),
    "run": (text, True), "generation": (number, False), "holder": (text, True),
    "id": (number, False), "previous": (number, True), "kind": (text, False),
    "drained": (flag, True),
    "triggered-at": (number, False), "duration-ms": (number, False),
    "key-groups": (number, False), "key-hash": (text, False), "operators": (array, False),
}  # fmt: skip
OPERATOR = {
    "id": (text, False), "role": (text, False), "parallelism": (number, False),
    "labels": (table, False), "states": (array, False), "operator-states": (array, True),
    "subtasks": (array, False),
}  # fmt: skip
STATE = {
    "name": (text, False), "kind": (text, False), "schema": (text, False),
    "schema-version": (u32, False), "ttl-ms": (number, True), "ttl-refresh": (text, True),
    "ttl-time": (text, True), "entries": (number, False), "bytes": (number, False),
}  # fmt: skip
SUBTASK = {
    "segments": (array, False), "operator-state": (table, True), "parts": (anything, False),
    "ended-inputs": (array, False), "watermark": (signed, True), "event-time": (signed, True),
}  # fmt: skip
SEGMENT = {
    "file": (text, True), "offset": (number, False), "length": (number, False),
    "crc32c": (u32, False), "compressed": (table, True), "written-by": (number, False),
    "delta": (flag, False),
}  # fmt: skip
COMPRESSED = {"codec": (text, False), "raw-length": (number, False)}


def fields(place, value, expected):
    check(table(value), f"{place} is no object")
    for name, (fits, optional) in expected.items():
        given = value.get(name)
        if given is None:
            check(optional, f"{place}: `{name}` is missing")
            value[name] = None
        else:
            check(fits(given), f"{place}: `{name}` cannot be {given!r}")
    return value


def distinct(values):
    return len(set(values)) == len(values)


def check_body(version, body, directory_name):
    fields("the body", body, BODY)
    if body["key-hash"] != "xxh3-64":
        raise Later(f"keys are dealt by {body['key-hash']!r}, this reader knows xxh3-64")
    id, groups = body["id"], body["key-groups"]
    check(body["previous"] is None or body["previous"] < id, "`previous` is not less than `id`")
    named = re.fullmatch(r"chk-(0|[1-9][0-9]*)", directory_name)
    check(not named or int(named[1]) == id, f"checkpoint {id} in {directory_name}")
    check(body["kind"] in ("checkpoint", "savepoint"), "an unknown `kind`")
    year_10000 = 253_402_300_800_000
    check(body["triggered-at"] + body["duration-ms"] < year_10000, "completed after the year 9999")
    check(1 <= groups <= 32768, f"{groups} key groups")
    for operator in body["operators"]:
        fields("an operator", operator, OPERATOR)
        check_operator(body, operator)
    check(distinct([one["id"] for one in body["operators"]]), "two operators with one id")
    subtasks = [subtask for operator in body["operators"] for subtask in operator["subtasks"]]
    apart = [subtask["operator-state"] for subtask in subtasks if subtask["operator-state"]]
    segments = [segment for subtask in subtasks for segment in subtask["segments"]] + apart
    compressed = any(segment["compressed"] for segment in segments)
    check(version >= 2 or not compressed, "format version 1 has no compressed segments")
    states = [state for operator in body["operators"] for state in operator["states"]]
    expire = any(state["ttl-ms"] is not None for state in states)
    check(version >= 3 or not expire, "format versions before 3 have no entries that expire")
    timers = any(state["kind"] == "timers" for state in states)
    check(version >= 3 or not timers, "format versions before 3 have no timers")
    apart = apart or any(operator["operator-states"] for operator in body["operators"])
    check(version >= 3 or not apart, "format versions before 3 have no operator state")
    check_sums(body, segments)


def check_operator(body, operator):
    place = f"operator {operator['id']!r}"
    states, subtasks = operator["states"], operator["subtasks"]
    check(operator["role"] in ("source", "operator", "sink"), f"{place}: an unknown role")
    check(all(map(text, operator["labels"].values())), f"{place}: a label is no text")
    most = body["key-groups"] if states else 32768
    check(1 <= operator["parallelism"] <= most, f"{place}: its parallelism")
    check(operator["parallelism"] == len(subtasks), f"{place}: parallelism is not its subtasks")
    for state in states:
        fields(f"{place}: a state", state, STATE)
        check(state["kind"] in KINDS, f"{place}: a state of an unknown kind")
        ttl = [state["ttl-ms"], state["ttl-refresh"], state["ttl-time"]]
        check(ttl == [None] * 3 or None not in ttl, f"{place}: a part of a time to live")
        check(ttl[1] in (None, "write", "read"), f"{place}: an unknown `ttl-refresh`")
        check(ttl[2] in (None, *CLOCKS.values()), f"{place}: an unknown `ttl-time`")
    of_subtasks = operator["operator-states"] or []
    for state in of_subtasks:
        fields(f"{place}: an operator state", state, STATE)
        check(state["kind"] in SCOPES, f"{place}: an operator state of an unknown scope")
        ttl = [state["ttl-ms"], state["ttl-refresh"], state["ttl-time"]]
        check(ttl == [None] * 3, f"{place}: operator state with a time to live")
    every = states + of_subtasks
    check(distinct([state["name"] for state in every]), f"{place}: two states with one name")
    check(operator["role"] == "operator" or not every, f"{place}: states of a {operator['role']}")
    for index, subtask in enumerate(subtasks):
        where = f"{place}, subtask {index}"
        fields(where, subtask, SUBTASK)
        ended = subtask["ended-inputs"]
        check(all(map(u32, ended)) and distinct(ended), f"{where}: its ended inputs")
        check(operator["role"] != "source" or not ended, f"{where}: a source has no inputs")
        check(states or not subtask["segments"], f"{where}: segments without states")
        before = None
        for segment in subtask["segments"]:
            fields(f"{where}: a segment", segment, SEGMENT)
            check_segment(body, where, segment, before)
            before = segment
        stored = subtask["operator-state"]
        if stored is not None:
            fields(f"{where}: its operator state", stored, SEGMENT)
            check(of_subtasks, f"{where}: operator state that is not declared")
            check_segment(body, where, stored, None)
            check(not stored["delta"], f"{where}: operator state that is a delta")
            check(stored["written-by"] == body["id"], f"{where}: operator state of another checkpoint")
            raw = (stored["compressed"] or {}).get("raw-length", stored["length"])
            check(raw <= 1 << 30, f"{where}: operator state of more than 1 GiB")


DATA_FILE = r"r(0|[1-9][0-9]*)-c(0|[1-9][0-9]*)-(0|[1-9][0-9]*)\.state"
JOB_ID = r"(?!(?:shared|taskowned|_lease|chk-\d+)/)[^./\\#?\x00-\x1f\x7f][^/\\#?\x00-\x1f\x7f]{0,199}"


def check_segment(body, place, segment, before):
    file, written_by = segment["file"], segment["written-by"]
    check(segment["length"] > 0, f"{place}: a segment without bytes")
    check(segment["offset"] + segment["length"] <= NUMBER_MAX, f"{place}: a segment without end")
    check(written_by <= body["id"], f"{place}: a segment from the future")
    if before:
        check(segment["delta"], f"{place}: a full segment that has one before it")
        check(written_by > before["written-by"], f"{place}: segments in disorder")
    if segment["compressed"] is not None:
        compressed = fields(f"{place}: `compressed`", segment["compressed"], COMPRESSED)
        check(compressed["codec"] in ("lz4", "zstd"), f"{place}: an unknown codec")
        check(file is not None, f"{place}: compressed, but inline")
    if file is None:
        return
    where = "" if body["kind"] == "savepoint" else rf"(?:\.\./shared/|\.\./\.\./{JOB_ID}/shared/)?"
    named = re.fullmatch(where + DATA_FILE, file)
    check(named, f"{place}: {file!r} is no data file")
    check(all(int(part) <= NUMBER_MAX for part in named.groups()), f"{place}: {file!r}")
    check(int(named[2]) == written_by, f"{place}: {file!r} is not by checkpoint {written_by}")


def check_sums(body, segments):
    states = [
        state
        for operator in body["operators"]
        for state in operator["states"] + (operator["operator-states"] or [])
    ]
    raw = [(one["compressed"] or {}).get("raw-length", one["length"]) for one in segments]
    for summands in (
        [one["entries"] for one in states],
        [one["bytes"] for one in states],
        [one["length"] for one in segments],
        raw,
    ):
        check(sum(summands) <= NUMBER_MAX, "a sum that is too large")
    ranges = {}
    for one in segments:
        ranges.setdefault(one["file"], []).append((one["offset"], one["length"]))
    for taken in ranges.values():
        end = 0
        for offset, length in sorted(taken):
            check(offset >= end, "two segments share bytes")
            end = offset + length


# --- Where a segment's bytes are, and how they are compressed --------------------------------------


def segment_bytes(directory, inline, segment):
    offset, length = segment["offset"], segment["length"]
    if segment["file"] is None:
        data = inline[offset : offset + length]
        check(len(data) == length, "a segment is not within the inline bytes")
    else:
        try:
            with open(directory / segment["file"], "rb") as file:
                # Before anything is allocated by the length.
                check(file.seek(0, 2) >= offset + length, "a segment is cut short")
                file.seek(offset)
                data = file.read(length)
        except OSError as error:
            raise Corrupt(str(error)) from error
    check(crc32c(data) == segment["crc32c"], "a segment's checksum")
    if segment["compressed"] is not None:
        data = decompress(data, segment["compressed"])
    return data


def decompress(data, compressed):
    decode = lz4_block if compressed["codec"] == "lz4" else zstd_frame
    at, raw = 0, bytearray()
    while at < len(data):
        check(len(data) - at >= 12, "a compressed block is cut short")
        stored, size, crc = struct.unpack_from("<III", data, at)
        check(1 <= stored <= size <= BLOCK_MAX, "a compressed block's lengths")
        payload = data[at + 12 : at + 12 + stored]
        check(len(payload) == stored, "a compressed block is cut short")
        check(crc32c(data[at : at + 8] + payload) == crc, "a compressed block's checksum")
        if stored < size:
            payload = decode(payload, size)
        check(len(payload) == size, "a compressed block's length")
        raw += payload
        at += 12 + stored
    check(len(raw) == compressed["raw-length"], "`raw-length`")
    return bytes(raw)


def lz4_block(data, size):
    """One LZ4 block: literals, and copies of what came before."""

    def extended(length, at):
        if length == 15:
            more = 255
            while more == 255:
                more = data[at]
                length, at = length + more, at + 1
        return length, at

    at, out = 0, bytearray()
    try:
        while True:
            token = data[at]
            length, at = extended(token >> 4, at + 1)
            check(at + length <= len(data), "LZ4: literals are cut short")
            out += data[at : at + length]
            at += length
            if at == len(data):
                return bytes(out)
            back = data[at] | data[at + 1] << 8
            length, at = extended(token & 15, at + 2)
            length += 4
            check(0 < back <= len(out) and len(out) + length <= size, "LZ4: a copy of nothing")
            start = len(out) - back
            pattern = bytes(out[start : start + length])
            out += (pattern * (length // len(pattern) + 1))[:length]
    except IndexError as error:
        raise Corrupt("LZ4: cut short") from error


def zstd_frame(data, size):
    import zstandard

    try:
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
    except zstandard.ZstdError as error:
        raise Corrupt(f"Zstandard: {error}") from error


# --- Segments: what is in them -------------------------------------------------------------------

KINDS = ("value", "map", "list", "timers")
# Of operator state.
SCOPES = ["operator-split", "operator-union", "broadcast"]
# What is added to the kind of a state in a header: by what its entries expire.
CLOCKS = {128: "processing", 64: "event"}
HEADER, VALUES, MAP, LIST, REMOVED, REMOVED_FIELDS, CONTINUATION, END = 1, 2, 3, 4, 5, 6, 7, 255
KINDS_OF = {
    VALUES: ["value"], MAP: ["map", "timers"], LIST: ["list"], REMOVED: KINDS, REMOVED_FIELDS: ["map", "timers"],
}


class Bytes:
    """Reads numbers and strings one after the other."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        check(len(self.data) - self.at >= count, "an entry is cut short")
        self.at += count
        return self.data[self.at - count : self.at]

    def u8(self):
        return self.take(1)[0]

    def u32(self):
        return int.from_bytes(self.take(4), "little")

    def u64(self):
        return int.from_bytes(self.take(8), "little")

    def varint(self):
        value, shift = 0, 0
        while True:
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                check(byte or not shift, "a varint with needless bytes")
                check(value < 1 << 64, "a varint of more than 64 bits")
                return value
            shift += 7
            check(shift < 64, "a varint of more than 64 bits")

    def string(self):
        return self.take(self.varint())

    def utf8(self):
        try:
            return self.string().decode()
        except UnicodeDecodeError as error:
            raise Corrupt("a name is not UTF-8") from error

    def finish(self):
        check(self.at == len(self.data), "bytes after the last entry")


def blocks(data):
    """The kind and payload of each block, with its continuations, and the end checked."""
    check(data[:8] == b"\x89HWSEG\r\n" and len(data) >= 12, "not a segment")
    check(data[8:12] == b"\1\0\0\0", "an unknown format version of a segment")
    at, count, entries, pending = 12, 0, 0, None
    while True:
        check(len(data) - at >= 8, "a segment without end")
        length, crc = struct.unpack_from("<II", data, at)
        check(1 <= length <= BLOCK_MAX, "a block's length")
        payload = data[at + 8 : at + 8 + length]
        check(len(payload) == length, "a block is cut short")
        check(crc32c(struct.pack("<I", count) + payload) == crc, "a block's checksum")
        at, count = at + 8 + length, count + 1
        kind, rest = payload[0], payload[1:]
        check((kind == HEADER) == (count == 1), "a header that is not the first block")
        if kind == CONTINUATION:
            alone = pending[0] == HEADER or pending[1][4:8] == b"\1\0\0\0"
            check(alone, "a continuation after several entries")
            pending[1].extend(rest)
            continue
        if pending:
            yield pending[0], bytes(pending[1])
        pending = (kind, bytearray(rest))
        if kind == END:
            break
        if kind != HEADER:
            check(kind in KINDS_OF, f"a block of kind {kind}")
            check(len(rest) >= 8, "a block is cut short")
            entries += int.from_bytes(rest[4:8], "little")
    check(at == len(data), "bytes after the last block")
    end = Bytes(rest)
    check(end.u64() == entries, "another number of entries than it says")
    check(end.u64() == count, "another number of blocks than it says")
    end.finish()


def read_segment(data, body, operator, segment, before, groups, apply):
    """Checks a segment against the body, and hands each of its entries to `apply`."""
    pieces = blocks(data)
    states = header(next(pieces)[1], body, operator, segment, before, groups)
    with_entries, values = set(), set()
    for kind, payload in pieces:
        block = Bytes(payload)
        number, count = block.u32(), block.u32()
        check(number < len(states), "a block of an unknown state")
        name, state_kind = states[number]
        check(state_kind in KINDS_OF[kind], "a block of another kind than its state")
        if kind in (REMOVED, REMOVED_FIELDS):
            check(segment["delta"], "a full segment removes something")
            check(name not in with_entries, "removals after entries")
        else:
            with_entries.add(name)
        for _ in range(count):
            key = block.string()
            group = xxhash.xxh3_64_intdigest(key) % body["key-groups"]
            check(group in groups, f"key {key!r} is of another subtask")
            if kind == VALUES and not segment["delta"]:
                check((name, key) not in values, f"key {key!r} comes twice")
                values.add((name, key))
            apply(kind, (group, name.encode(), key), block, state_kind == "timers")
        block.finish()


def header(payload, body, operator, segment, before, groups):
    """The names and kinds of the segment's states."""
    head = Bytes(payload)
    delta, checkpoint, base = head.u8(), head.u64(), head.u64()
    check(delta == (1 if segment["delta"] else 0), "full or delta: body and segment disagree")
    check(checkpoint == segment["written-by"], "a segment of another checkpoint")
    least = before["written-by"] if before else 0
    check(least <= base < checkpoint if delta else base == 0, f"base {base}")
    check(head.u32() == body["key-groups"], "another number of key groups")
    first, behind = head.u32(), head.u32()
    check(range(first, behind) == groups, "other key groups than those of the subtask")
    check(head.utf8() == body["key-hash"], "another hash")
    declared = {state["name"]: state["kind"] for state in operator["states"]}
    clocks = {state["name"]: state["ttl-time"] for state in operator["states"]}
    states = []
    for _ in range(head.varint()):
        name, byte = head.utf8(), head.u8()
        kind, clock = byte & 63, byte & 192
        head.varint()
        check(name in declared, f"state {name!r} is not in the body")
        check(kind < len(KINDS) and KINDS[kind] == declared[name], f"state {name!r} has another kind")
        check(not clock or clock in CLOCKS, f"state {name!r} expires by two clocks")
        check(CLOCKS.get(clock) == clocks[name], f"state {name!r} expires by another clock")
        states.append((name, KINDS[kind]))
    head.finish()
    check(distinct([name for name, _ in states]), "a state is named twice")
    return states


# --- State, and how it is exported ---------------------------------------------------------------


def apply_to(state):
    """State is: by key group, name and key, a value, a table of fields, or a list."""

    def apply(kind, place, block, timers):
        if kind == VALUES:
            state[place] = block.string()
        elif kind == MAP:
            field = block.string()
            value = block.string()
            check(not timers or (len(field) == 12 and not value), "an entry of timers that is none")
            state.setdefault(place, {})[field] = value
        elif kind == LIST:
            starts, count = block.u8(), block.varint()
            check(starts in (0, 1), "a list that neither starts nor goes on")
            if starts:
                state[place] = []
            state.setdefault(place, []).extend(block.string() for _ in range(count))
        elif kind == REMOVED:
            state.pop(place, None)
        else:
            state.get(place, {}).pop(block.string(), None)

    return apply


def expire(body, operator, subtask, groups, state):
    """Takes the expiry off the values of a subtask, and those away that had expired at the checkpoint."""
    watermark = subtask["watermark"]
    if watermark == NUMBER_MAX:
        # That of the end of all input is no time.
        watermark = subtask["event-time"]
    now = {
        "event": -NUMBER_MAX - 1 if watermark is None else watermark,
        "processing": body["triggered-at"] + body["duration-ms"],
    }
    clocks = {one["name"].encode(): one["ttl-time"] for one in operator["states"]}

    def alive(stored, clock):
        check(len(stored) >= 8, "a value is too short to have an expiry")
        return int.from_bytes(stored[:8], "little", signed=True) > now[clock]

    for place in [place for place in state if place[0] in groups and clocks[place[1]]]:
        clock, held = clocks[place[1]], state[place]
        if isinstance(held, dict):
            held = {field: one[8:] for field, one in held.items() if alive(one, clock)}
        elif isinstance(held, list):
            held = [one[8:] for one in held if alive(one, clock)]
        else:
            held = held[8:] if alive(held, clock) else None
        state[place] = held
        if held is None or held in ({}, []):
            del state[place]


def read(directory):
    """Every entry of state, as it is exported."""
    try:
        data = (directory / "_metadata").read_bytes()
    except FileNotFoundError as error:
        raise Absent(f"no completed checkpoint: {error}") from error
    version, body, inline = read_metadata(data)
    check_body(version, body, directory.resolve().name)
    for operator in sorted(body["operators"], key=lambda one: one["id"].encode()):
        state = {}
        states = {one["name"].encode(): (one["kind"], one["schema"]) for one in operator["states"]}
        for index, subtask in enumerate(operator["subtasks"]):
            before = None
            groups = key_groups(index, operator["parallelism"], body["key-groups"])
            for segment in subtask["segments"]:
                data = segment_bytes(directory, inline, segment)
                read_segment(data, body, operator, segment, before, groups, apply_to(state))
                before = segment
            expire(body, operator, subtask, groups, state)
        yield from entries(operator["id"], states, state)
        yield from operator_state(directory, inline, body, operator)


def operator_state(directory, inline, body, operator):
    """The entries of the lists and maps of an operator's subtasks."""
    declared = {state["name"]: state for state in operator["operator-states"] or []}
    held = {name: [] for name in declared}
    for index, subtask in enumerate(operator["subtasks"]):
        if subtask["operator-state"] is None:
            continue
        data = segment_bytes(directory, inline, subtask["operator-state"])
        check(len(data) >= 4 and data[-4:] == struct.pack("<I", crc32c(data[:-4])), "a checksum")
        of = (body["id"], index, operator["parallelism"])
        check(data[:24] == b"HWOPST\r\n" + struct.pack("<QII", *of), "operator state of another")
        rest, seen = Bytes(data[24:-4]), []
        for _ in range(rest.u32()):
            code, name = rest.u8(), rest.take(rest.u32()).decode(errors="replace")
            check(name in declared and name not in seen, f"operator state {name!r}")
            check(SCOPES[code : code + 1] == [declared[name]["kind"]], f"the scope of {name!r}")
            seen.append(name)
            before = None
            for place in range(rest.u32()):
                field = rest.take(rest.u32()) if SCOPES[code] == "broadcast" else None
                check(field is None or before is None or before < field, f"fields of {name!r}")
                held[name].append((index, field, place, rest.take(rest.u32())))
                before = field
        rest.finish()
    for name in sorted(declared, key=str.encode):
        kind = declared[name]["kind"]
        schema = Schema(kind, declared[name]["schema"])
        entry = {"operator": operator["id"], "state": name, "kind": kind}
        for index, field, place, value in held[name]:
            at = {"index": place} if field is None else {"field": schema.show_field(field)}
            yield entry | {"key": str(index)} | at | {"value": schema.show_value(value)}


def key_groups(index, parallelism, count):
    return range(-(-index * count // parallelism), -(-(index + 1) * count // parallelism))


# --- Values as what they are: by the schemas of "What operators put in them" ---------------------

DEEPEST, MOST_PARTS = 32, 1 << 16


class Misfit(Exception):
    """Bytes that are no value of their schema."""


class Parser:
    """A schema: nested tuples that begin with the name of what they are. Raises Misfit if it is none."""

    def __init__(self, text):
        self.text, self.at = text, 0

    def take(self, text):
        found = self.text.startswith(text, self.at)
        self.at += len(text) if found else 0
        return found

    def need(self, text):
        if not self.take(text):
            raise Misfit

    def word(self):
        word = re.compile("[A-Za-z0-9_#]*").match(self.text, self.at)[0]
        self.at += len(word)
        return word

    def some(self, end, one):
        parts = [one()]
        while self.take(","):
            parts.append(one())
        self.need(end)
        return parts

    def named(self, depth):
        name = self.word()
        if not name:
            raise Misfit
        self.need(":")
        return name, self.value(depth)

    def fields(self, end, depth):
        fields = self.some(end, lambda: self.named(depth + 1))
        if not distinct([name for name, _ in fields]):
            raise Misfit
        return fields

    def value(self, depth=0):
        if depth == DEEPEST:
            raise Misfit
        if self.take("("):
            if re.compile("[A-Za-z0-9_#]+:").match(self.text, self.at):
                value = ("named", self.fields(")", depth))
            else:
                value = ("tuple", self.some(")", lambda: self.value(depth + 1)))
        elif self.take("{"):
            value = ("struct", self.fields("}", depth))
        elif self.take("["):
            inner = self.value(depth + 1)
            if self.take("]"):
                if parts(inner) > 16 * least(inner):
                    raise Misfit
                value = ("list", inner)
            else:
                self.need(";")
                count = self.word()
                self.need("]")
                if not re.fullmatch("[0-9]+", count) or int(count) >= 1 << 32:
                    raise Misfit
                value = ("array", inner, int(count))
        else:
            word = self.word()
            if word and self.text.startswith(("(", "["), self.at):
                # What it is called says nothing of how it is encoded.
                return self.value(depth)
            value = (word,)
            if word not in WHOLE and word not in OTHER:
                raise Misfit
        while self.take("?"):
            depth += 1
            if depth == DEEPEST:
                raise Misfit
            value = ("optional", value)
        return value

    @classmethod
    def whole(cls, text):
        parser = cls(text)
        value = parser.value()
        if parser.at != len(text) or parts(value) > MOST_PARTS:
            raise Misfit
        return value


WHOLE = {f"{sign}{8 * size}": (size, sign == "i") for sign in "ui" for size in (1, 2, 4, 8, 16)}
OTHER = ["varint", "svarint", "f32", "f64", "bool", "unit", "string", "bytes", "json"]
TEXTS = ["string", "bytes", "json"]


def parts(value):
    kind = value[0]
    if kind == "optional":
        return 1 + parts(value[1])
    if kind == "array":
        return 1 + parts(value[1]) * value[2]
    if kind == "tuple":
        return 1 + sum(map(parts, value[1]))
    if kind in ("struct", "named"):
        return 1 + sum(parts(part) for _, part in value[1])
    return 1


def least(value):
    """How many bytes it takes at least as a part."""
    kind = value[0]
    if kind in WHOLE:
        return WHOLE[kind][0]
    if kind == "array":
        return least(value[1]) * value[2]
    if kind == "tuple":
        return sum(map(least, value[1]))
    if kind in ("struct", "named"):
        return sum(least(part) for _, part in value[1]) + (4 if kind == "struct" else 0)
    return {"f64": 8, "bool": 1, "optional": 1, "varint": 1, "svarint": 1, "unit": 0}.get(kind, 4)


def taken(data, length):
    if len(data) < length:
        raise Misfit
    return data[:length], data[length:]


def flag(data):
    byte, data = taken(data, 1)
    if byte[0] > 1:
        raise Misfit
    return byte[0] == 1, data


def prefixed(data):
    length, data = taken(data, 4)
    return taken(data, int.from_bytes(length, "little"))


def varint(data):
    number = 0
    for shift in range(0, 64, 7):
        byte, data = taken(data, 1)
        number |= (byte[0] & 127) << shift
        if number >= 1 << 64:
            raise Misfit
        if byte[0] < 128:
            return number, data
    raise Misfit


def decode(value, data):
    """The value that data begins with, as JSON has it, and what is left of data."""
    kind = value[0]
    if kind in WHOLE:
        size, signed = WHOLE[kind]
        number, data = taken(data, size)
        return int.from_bytes(number, "little", signed=signed), data
    if kind in ("varint", "svarint"):
        number, data = varint(data)
        return number if kind == "varint" else number >> 1 ^ -(number & 1), data
    if kind in ("f32", "f64"):
        number, data = taken(data, 4 if kind == "f32" else 8)
        (number,) = struct.unpack("<f" if kind == "f32" else "<d", number)
        if math.isfinite(number):
            return number, data
        return "NaN" if math.isnan(number) else str(number), data
    if kind == "bool":
        return flag(data)
    if kind == "unit":
        return None, data
    if kind in TEXTS:
        text, data = prefixed(data)
        return readable(text), data
    if kind == "optional":
        there, data = flag(data)
        return decode_part(value[1], data) if there else (None, data)
    if kind in ("struct", "named"):
        found = {}
        for name, part in value[1]:
            found[name], data = decode_part(part, data)
        return found, data
    if kind == "list":
        found = []
        while data:
            one, data = decode_part(value[1], data)
            found.append(one)
        return found, data
    inner = [value[1]] * value[2] if kind == "array" else value[1]
    found = []
    for part in inner:
        one, data = decode_part(part, data)
        found.append(one)
    return found, data


def decode_part(value, data):
    if value[0] not in ("struct", "list"):
        return decode(value, data)
    own, data = prefixed(data)
    found, rest = decode(value, own)
    if rest:
        raise Misfit
    return found, data


def decode_ordered(value, data):
    """As decode, of what is encoded so that the order of the bytes is that of the values."""
    kind = value[0]
    if kind in WHOLE:
        size, signed = WHOLE[kind]
        number, data = taken(data, size)
        return int.from_bytes(number, "big") - (1 << 8 * size - 1 if signed else 0), data
    if kind == "bool":
        return flag(data)
    if kind in TEXTS:
        text = b""
        while True:
            byte, data = taken(data, 1)
            if byte == b"\0":
                mark, data = taken(data, 1)
                if mark == b"\0":
                    return readable(text), data
                if mark != b"\xff":
                    raise Misfit
            text += byte
    if kind != "tuple":
        raise Misfit
    found = []
    for part in value[1]:
        one, data = decode_ordered(part, data)
        found.append(one)
    return found, data


class Schema:
    """What values and fields of a state are, as far as its schema says so."""

    def __init__(self, kind, text):
        self.value = self.field = None
        self.known = True
        try:
            if kind in ("map", "timers", "broadcast"):
                field, equals, text = text.partition("=")
                if not equals:
                    raise Misfit
                self.field = Parser.whole(field)
            self.value = Parser.whole(text)
        except Misfit:
            self.known = False

    def show(self, of, decode, data):
        if not self.known or of[0] in TEXTS:
            return readable(data)
        try:
            found, rest = decode(of, data)
            if rest:
                raise Misfit
            return found
        except Misfit:
            return "0x" + data.hex()

    def show_value(self, data):
        return self.show(self.value, decode, data)

    def show_field(self, data):
        return self.show(self.field, decode_ordered, data)


def readable(data):
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "0x" + data.hex()
    control = any(ord(char) < 32 or 127 <= ord(char) < 160 for char in text)
    return "0x" + data.hex() if control or text.startswith("0x") else text


def entries(operator, states, state):
    schemas = {name: Schema(kind, schema) for name, (kind, schema) in states.items()}
    for (_, name, key), held in sorted(state.items()):
        kind, schema = states[name][0], schemas[name]
        entry = {"operator": operator, "state": name.decode(), "kind": kind, "key": readable(key)}
        if kind == "value":
            yield entry | {"value": schema.show_value(held)}
        elif kind in ("map", "timers"):
            for field in sorted(held):
                shown = {"field": schema.show_field(field), "value": schema.show_value(held[field])}
                yield entry | shown
        else:
            for index, element in enumerate(held):
                yield entry | {"index": index, "value": schema.show_value(element)}


def to_json(value):
    """As json.dumps without spaces, but with `1e16` for `1e+16`, and 0.00001 for `1e-05`."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{to_json(name)}:{to_json(of)}" for name, of in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(to_json, value)) + "]"
    if isinstance(value, float):
        if 1e-5 <= abs(value) < 1e-4:
            return format(Decimal(repr(value)), "f")
        return re.sub(r"e\+?(-?)0*", r"e\1", repr(value))
    return json.dumps(value, ensure_ascii=False)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        lines = [to_json(entry) for entry in read(Path(sys.argv[1]))]
    except (Corrupt, Later, Absent) as error:
        print(f"reader: {error}", file=sys.stderr)
        sys.exit(error.code)
    sys.stdout.reconfigure(encoding="utf-8")
    for line in lines:
        print(line)


if __name__ == "__main__":
    main()
