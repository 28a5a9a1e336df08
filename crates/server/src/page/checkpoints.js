// The checkpoints of a job: what became of them, where the time went and who held them up.

import { h, table } from './draw.js';
import { bytes, count, duration, micros, plural, time, utc, visible } from './words.js';

/** The phases of a checkpoint, in their order. */
export const PHASES = [
  { key: 'start-delay', name: 'Start delay', help: 'From the trigger to the first barrier at a subtask' },
  { key: 'alignment', name: 'Alignment', help: 'From the first barrier at a subtask to its last' },
  { key: 'snapshot', name: 'Snapshot', help: 'The pause of a subtask while its state is sealed' },
  { key: 'upload', name: 'Upload', help: 'From there until it is written, in the background' },
  { key: 'metadata', name: 'Metadata', help: 'From the last acknowledgement to completion' },
];

const ROWS = 10;

/** Each phase's microseconds, in the order of `PHASES`; `null` of a checkpoint that was given up. */
export function phaseTimes(checkpoint) {
  const phases = checkpoint.outcome.phases;
  return phases ? PHASES.map(({ key }) => (key === 'metadata' ? phases['metadata-us'] : phases[key]?.us) ?? 0) : null;
}

/** What is said above the chart. */
export function summary(view, now) {
  const { completed, failed, restored, restores, 'in-progress': inProgress } = view.checkpoints;
  const interval = view['interval-ms'];
  return [
    interval === null || interval === undefined ? 'No periodic checkpoints. ' : `Taken every ${duration(interval)}. `,
    `${count(completed)} completed, ${count(failed)} failed, ${count(inProgress)} in progress. `,
    restored && h('span', { id: 'restored' },
      `Restored ${plural(restores, 'time')}, last from ${restored.savepoint ? 'savepoint' : 'checkpoint'} ${count(restored.id)} at `,
      h('time', { title: utc(restored.at) }, time(restored.at, now)),
      ` in ${duration(restored['took-ms'])}`,
      restored.path ? [': ', h('code', { class: 'path' }, visible(restored.path))] : ' (in memory)',
      '.'),
  ];
}

/** The table. `open` has the ids whose details are shown, `subtasks` what is known of their subtasks. */
export function history({ view, now, open, subtasks, toggle, isWhole, showAll }) {
  const { history: all } = view.checkpoints;
  if (!all.length) return h('p', { class: 'muted', id: 'no-checkpoints' }, 'No checkpoint has ended yet.');
  const shown = isWhole ? all : all.slice(0, ROWS);
  const names = new Map(view.vertices.map((vertex) => [vertex.id, vertex.name]));
  const heads = ['Id', 'Kind', 'Triggered', 'Outcome', ['Duration', 'number'], ['Written', 'number'], ['Full size', 'number'],
    ...PHASES.map(({ name }) => [name, 'number']), 'Held up by'];
  const rows = shown.flatMap((checkpoint) => {
    const isOpen = open.has(checkpoint.id);
    const row = entry(checkpoint, now, isOpen, () => toggle(checkpoint.id));
    return isOpen ? [row, details(checkpoint, names, heads.length, subtasks.get(checkpoint.id))] : [row];
  });
  return [
    table({ id: 'checkpoints', label: 'History of the checkpoints', heads, rows }),
    all.length > ROWS && h('p', { key: 'all' },
      h('button', { type: 'button', id: 'all-checkpoints', 'aria-expanded': String(isWhole), on: { click: showAll } },
        isWhole ? `Show the newest ${ROWS}` : `Show all ${all.length}`)),
  ];
}

function entry(checkpoint, now, isOpen, toggle) {
  const { outcome } = checkpoint;
  const times = phaseTimes(checkpoint);
  const longest = times && longestPhase(times);
  return h('tr', {
    key: checkpoint.id, 'data-checkpoint': checkpoint.id, 'data-outcome': visible(outcome.outcome), 'data-kind': kind(checkpoint),
    class: isOpen ? 'open' : '',
    on: {
      // The whole row opens for the mouse; the button is what the keyboard reaches.
      click: (event) => { if (!event.target.closest('button') && !hasSelection()) toggle(); },
    },
  },
  h('th', { scope: 'row' },
    h('button', { type: 'button', class: 'fold', 'aria-expanded': String(isOpen), 'aria-label': `Details of checkpoint ${checkpoint.id}`, on: { click: toggle } },
      h('span', { class: 'sign', 'aria-hidden': 'true' }, isOpen ? '▾' : '▸'), count(checkpoint.id))),
  h('td', null, kind(checkpoint)),
  h('td', { title: utc(checkpoint['triggered-at']) }, time(checkpoint['triggered-at'], now)),
  h('td', { class: `word ${outcome.outcome === 'completed' ? 'good' : 'bad'}` }, visible(outcome.outcome)),
  h('td', { class: 'number' }, duration(took(checkpoint))),
  h('td', { class: 'number' }, bytes(outcome.bytes)),
  h('td', { class: 'number' }, bytes(outcome['full-bytes'])),
  PHASES.map(({ key }, index) => h('td', { class: `number${index === longest ? ' longest' : ''}`, key }, micros(times?.[index]))),
  h('td', { class: 'cause' }, times ? heldUp(outcome.phases, longest) : visible(outcome.slowest ?? outcome.reason)));
}

const kind = (checkpoint) => (checkpoint.savepoint ? 'savepoint' : 'checkpoint');
const hasSelection = () => String(document.getSelection() ?? '') !== '';

export function took(checkpoint) {
  return checkpoint['ended-at'] - checkpoint['triggered-at'];
}

function longestPhase(times) {
  return times.indexOf(Math.max(...times));
}

function heldUp(phases, longest) {
  const { key } = PHASES[longest];
  if (key === 'metadata') return 'writing the metadata';
  const { operator, subtask } = phases[key];
  return operator ? [h('span', { class: 'name' }, visible(operator)), ` subtask ${subtask}`] : '–';
}

function details(checkpoint, names, width, subtasks) {
  const { outcome } = checkpoint;
  return h('tr', { key: `details ${checkpoint.id}`, class: 'details', 'data-details': checkpoint.id },
    h('td', { colspan: width }, h('div', { class: 'inner' }, outcome.outcome === 'completed' ? completed(checkpoint, names, subtasks) : failed(outcome))));
}

function failed(outcome) {
  return h('dl', { class: 'pairs' },
    h('dt', null, 'Kind'), h('dd', null, visible(outcome.kind)),
    h('dt', null, 'Reason'), h('dd', null, visible(outcome.reason)),
    outcome.slowest && [h('dt', null, 'Slowest'), h('dd', null, visible(outcome.slowest))]);
}

function completed(checkpoint, names, known) {
  const { outcome } = checkpoint;
  const triggered = checkpoint['triggered-at'];
  const heads = ['Vertex', ['Subtask', 'number'], ['Acknowledged after', 'number'], ['Start delay', 'number'], ['Alignment', 'number'],
    ['Snapshot', 'number'], ['Upload', 'number'], ['Written', 'number'], ['Full size', 'number']];
  const rows = Object.entries(known ?? {}).flatMap(([vertex, subtasks]) => subtasks.map((subtask) => h('tr', { key: `${vertex} ${subtask.index}` },
    h('td', { class: 'name' }, visible(names.get(vertex) ?? vertex)),
    h('td', { class: 'number' }, subtask.index),
    h('td', { class: 'number' }, duration(subtask['acknowledged-at'] - triggered)),
    ['start-delay-us', 'alignment-us', 'snapshot-us', 'upload-us'].map((key) => h('td', { class: 'number', key }, micros(subtask[key]))),
    h('td', { class: 'number' }, bytes(subtask.bytes)),
    h('td', { class: 'number' }, bytes(subtask['full-bytes'])))));
  return [
    h('p', { key: 'path' }, 'Stored in ', outcome.path ? h('code', { class: 'path' }, visible(outcome.path)) : 'memory', '. Each phase above is the longest time that any subtask took.'),
    !rows.length && h('p', { key: 'none', class: 'muted' }, known === undefined ? 'Asking the host…' : 'What its subtasks did is not known any more.'),
    rows.length > 0 && table({ id: `checkpoint-${checkpoint.id}-subtasks`, label: `Subtasks of checkpoint ${checkpoint.id}`, heads, rows }),
  ];
}
