// Counts the records of each key: `plugins/count` with `emit = "final"`, in JavaScript.
//
// The state has the name and the encoding of the Rust one, so each goes on with the counts of the other.

import { log } from 'highwater:operator/log@0.1.0';
import { emit } from 'highwater:operator/output@0.1.0';
import { load, scan, store } from 'highwater:operator/state@0.1.0';

const COUNT = 0;
const OUT = 0;
const HIGH = 2 ** 32;

// The counts of a column; an empty cell is 0. In two halves, because a BigInt costs more than all the rest.
function numbers({ data, offsets }) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const counts = [];
  for (let i = 0; i + 1 < offsets.length; i++) {
    const at = offsets[i];
    const absent = offsets[i + 1] === at;
    counts.push(absent ? 0 : view.getUint32(at, true) + HIGH * view.getUint32(at + 4, true));
  }
  return counts;
}

// A column of counts, each in 8 bytes.
function cells(counts) {
  const data = new Uint8Array(8 * counts.length);
  const view = new DataView(data.buffer);
  const offsets = new Uint32Array(counts.length + 1);
  counts.forEach((count, i) => {
    view.setUint32(8 * i, count % HIGH, true);
    view.setUint32(8 * i + 4, Math.floor(count / HIGH), true);
    offsets[i + 1] = 8 * (i + 1);
  });
  return { data, offsets };
}

// A column of counts in digits.
function rows(counts) {
  const data = [];
  const offsets = [0];
  for (const count of counts) {
    for (const digit of String(count)) data.push(digit.charCodeAt(0));
    offsets.push(data.length);
  }
  return { data: Uint8Array.from(data), offsets: Uint32Array.from(offsets) };
}

function failure(message) {
  return { kind: 'config', message, record: null };
}

export const guest = {
  describe(config) {
    if (config !== '{}') throw failure('this counter has no configuration');
    return {
      inputs: [],
      outputs: [
        {
          name: 'out',
          keyed: true,
          keyColumns: [{ name: 'word', kind: 'text' }],
          format: { tag: 'row', val: [{ name: 'count', kind: 'integer' }] },
        },
      ],
      states: [
        { name: 'count', kind: 'value', scope: 'keyed', schema: 'u64', schemaVersion: 1, ttl: null },
      ],
      usesTimers: false,
    };
  },

  open(context) {
    log('info', `counting in JavaScript, subtask ${context.subtask}`);
  },

  process(batch) {
    const counts = numbers(load(COUNT).values);
    for (const number of batch.keyNumbers) counts[number] += 1;
    store(COUNT, Uint32Array.from(counts, (_, number) => number), cells(counts));
  },

  endOfInput(_input) {
    let cursor = new Uint8Array();
    let more = true;
    while (more) {
      const page = scan(COUNT, cursor, 4096);
      emit(OUT, page.keys, rows(numbers(page.values)), []);
      ({ cursor, more } = page);
    }
  },

  onTimers(_fired) {},

  onWatermark(_watermark) {},

  onCheckpointComplete(_checkpoint) {},

  migrate(_state, _fromVersion, _values) {
    throw failure('no older version of the state is known');
  },

  close() {},
};
