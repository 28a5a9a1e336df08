// Computes what happened between two polls of a job. Counters begin at 0 with each attempt: where one has shrunk
// there is no rate, which is `null`.

function delta(now, before) {
  return typeof now === 'number' && typeof before === 'number' && now >= before ? now - before : null;
}

function perSecond(now, before, seconds) {
  const grown = delta(now, before);
  return grown === null || !(seconds > 0) ? null : grown / seconds;
}

const sum = (values) => values.reduce((total, value) => total + (value ?? 0), 0);
const sumOrNull = (values) => (values.length && values.every((value) => value !== null) ? sum(values) : null);

/** Records that all sources have read or all sinks have written, and the rate. */
export function records(nodes, before, seconds) {
  const total = sum((nodes ?? []).map((node) => node.records));
  const was = before && sum(before.map((node) => node.records));
  return { total, rate: before ? perSecond(total, was, seconds) : null };
}

/** By a vertex's id, what it and its subtasks did since `before`, a poll `elapsed` seconds earlier. */
export function vertices(view, before, elapsed) {
  const was = new Map((before?.vertices ?? []).map((vertex) => [vertex.id, vertex]));
  return new Map(view.vertices.map((vertex) => [vertex.id, vertexRates(vertex, was.get(vertex.id), elapsed)]));
}

function vertexRates(vertex, before, elapsed) {
  const was = new Map((before?.subtasks ?? []).map((subtask) => [subtask.index, subtask]));
  const subtasks = vertex.subtasks.map((subtask) => subtaskRates(subtask, was.get(subtask.index), elapsed));
  const { first, last } = ends(vertex.members);
  const of = (members, key) => sumOrNull(subtasks.flatMap((subtask) => members.map((index) => subtask.members[index]?.[key] ?? null)));
  const known = subtasks.filter((subtask) => subtask.shares);
  const pressed = pick(known, (subtask) => subtask.shares.backPressured);
  const busiest = pick(known, (subtask) => subtask.shares.busy);
  const watermarks = vertex.subtasks.map((subtask) => subtask.watermark).filter((mark) => typeof mark === 'number');
  return {
    subtasks,
    recordsIn: of(first, 'recordsIn'),
    // A sink hands nothing on: what it writes leaves the chain.
    recordsOut: sumOrNull(last.flatMap((index) => of([index], vertex.members[index].kind === 'sink' ? 'recordsIn' : 'recordsOut'))),
    backPressured: pressed?.shares.backPressured ?? null,
    // The one that is told of: whoever is held up most, or else whoever works most.
    worst: (pressed?.shares.backPressured >= 0.1 ? pressed : busiest) ?? null,
    watermark: watermarks.length ? Math.min(...watermarks) : null,
  };
}

function pick(subtasks, value) {
  return subtasks.reduce((best, subtask) => (best === undefined || value(subtask) > value(best) ? subtask : best), undefined);
}

function subtaskRates(subtask, before, elapsed) {
  const times = ['busy-ms', 'idle-ms', 'back-pressured-ms'].map((key) => delta(subtask[key], before?.[key]));
  const total = sumOrNull(times);
  return {
    index: subtask.index,
    shares: total ? { busy: times[0] / total, idle: times[1] / total, backPressured: times[2] / total } : null,
    members: subtask.members.map((member, index) => ({
      recordsIn: perSecond(member['records-in'], before?.members?.[index]?.['records-in'], elapsed),
      recordsOut: perSecond(member['records-out'], before?.members?.[index]?.['records-out'], elapsed),
    })),
  };
}

/** Where records enter and leave a chain, as indexes of its members. */
function ends(members) {
  const ids = new Set(members.map((member) => member.id));
  const read = new Set(members.flatMap((member) => member.inputs));
  const indexes = [...members.keys()];
  return {
    first: indexes.filter((index) => !members[index].inputs.some((input) => ids.has(input))),
    last: indexes.filter((index) => !read.has(members[index].id)),
  };
}

/** Bytes of keyed state of a whole job. */
export function stateBytes(view) {
  return sum(view.vertices.flatMap((vertex) => vertex.subtasks.flatMap((subtask) => subtask.members.map((member) => member['state-bytes']))));
}
