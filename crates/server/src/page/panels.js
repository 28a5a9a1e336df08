// The parts of the page that are lists of facts.

import { h, table } from './draw.js';
import { pressure } from './graph.js';
import { stateBytes } from './rates.js';
import { bytes, count, duration, firstLine, percent, perSecond, plural, seconds, time, utc, visible, visibleLines } from './words.js';

const ENDED = new Set(['finished', 'stopped', 'cancelled', 'suspended', 'failed']);
const SUBTASK_BARS = 64;

export function hasEnded(view) {
  return ENDED.has(view.state);
}

/** The most important numbers of a job. */
export function facts({ view, read, written, now, rates }) {
  const newest = view.checkpoint;
  const pressed = Math.max(0, ...[...rates.values()].map((rate) => rate.backPressured ?? 0));
  const end = hasEnded(view) ? view['ended-at'] ?? now : now;
  const left = (view['bad-records'] ?? []).reduce((total, bad) => total + bad['left-out'], 0);
  return [
    fact('read', 'Records read', count(read.total), perSecond(read.rate)),
    fact('written', 'Records written', count(written.total), perSecond(written.rate)),
    fact('pressure', 'Back-pressure', rates.size && [...rates.values()].some((rate) => rate.worst) ? percent(pressed) : '–', 'worst subtask', { high: 'bad', some: 'warn', none: '' }[pressure(pressed)]),
    fact('checkpoint', 'Newest checkpoint', newest ? `${seconds(now - newest['completed-at'])} ago` : 'none',
      newest ? `#${count(newest.id)}, ${duration(newest['duration-ms'])}, ${bytes(newest.bytes)}` : '', newest || view['interval-ms'] == null ? '' : 'warn'),
    fact('state-bytes', 'Keyed state', bytes(stateBytes(view)), 'at the last checkpoint'),
    fact('parallelism', 'Parallelism', count(view.parallelism), plural(view['key-groups'], 'key group')),
    fact('restarts', 'Restarts', count(view.restarts), 'in this process', view.restarts > 0 ? 'warn' : ''),
    left > 0 && fact('bad-records', 'Bad records', count(left), 'left out', 'warn'),
    fact('age', hasEnded(view) ? 'Ran for' : 'Runs for', seconds(end - view['started-at']), `since ${time(view['started-at'], now)}`),
  ];
}

function fact(name, label, value, more, level = '') {
  return h('div', { key: name, class: `fact ${level}`, 'data-fact': name },
    h('dt', null, label), h('dd', null, h('b', null, value), ' ', h('span', { class: 'muted' }, more)));
}

/** What somebody who looks at the job should know first. */
export function notices(view, now) {
  const shown = [];
  const [last] = view.failures;
  const since = seconds(now - view['state-since']);
  if (view.state === 'starting') {
    shown.push(notice('recovery', 'info', 'The job starts', `To set it up or restore it has taken ${since} so far. ${restored(view, now)}`));
  }
  if (view.state === 'restarting') {
    const from = last?.['restarted-from'];
    const delay = last?.['restart-delay-ms'];
    const wait = typeof delay === 'number' ? last.at + delay - now : 0;
    const next = wait > 0 ? `The restart begins in ${seconds(wait)}.` : restored(view, now);
    const back = typeof from === 'number' ? `The job resumes from checkpoint ${count(from)}.` : 'The job starts again without a checkpoint.';
    shown.push(notice('recovery', 'warn', 'Recovery in progress', `The job failed and has been restarting for ${since}. ${last ? back : ''} ${next}`,
      view['last-failure'] && firstLine(view['last-failure'])));
  }
  if (view.state === 'stopping') shown.push(notice('stopping', 'info', 'The job stops', `It has been stopping for ${since}.`));
  if (view.state === 'failed') shown.push(notice('failed', 'bad', 'The job failed and is not restarted', '', view['last-failure'] && firstLine(view['last-failure'])));
  if (view['checkpoint-failure']) {
    shown.push(notice('checkpoint-failure', 'warn', 'The last checkpoint failed', 'None has completed since.', visible(view['checkpoint-failure'])));
  }
  return shown;
}

/** How far a restore is, and how long it will take at the pace so far. */
function restored(view, now) {
  const all = view.restoring?.['total-bytes'] ?? 0;
  const read = Math.min(view.restoring?.['read-bytes'] ?? 0, all);
  if (!(all > 0)) return 'How long it will still take is unknown.';
  const far = `${bytes(read)} of ${bytes(all)} of its state are read (${percent(read / all)})`;
  const took = now - view.restoring['began-at'];
  return read > 0 && took > 0 ? `${far}; about ${seconds((took * (all - read)) / read)} to go.` : `${far}.`;
}

function notice(name, level, title, text, cause) {
  return h('div', { key: name, class: `notice ${level}`, 'data-notice': name },
    h('b', null, title), text && [' ', h('span', null, text)], cause && h('div', { class: 'cause' }, cause));
}

/** Keyed state, by member. */
export function state(view) {
  const rows = [];
  const total = stateBytes(view);
  for (const vertex of view.vertices) {
    vertex.members.forEach((member, at) => {
      const sizes = vertex.subtasks.map((subtask) => subtask.members[at]?.['state-bytes'] ?? 0);
      const keys = vertex.subtasks.reduce((sum, subtask) => sum + (subtask.members[at]?.['state-keys'] ?? 0), 0);
      const sum = sizes.reduce((a, b) => a + b, 0);
      if (sum === 0 && keys === 0) return;
      const max = Math.max(...sizes);
      const skew = sum > 0 ? max / (sum / sizes.length) : 1;
      rows.push(h('tr', { key: `${vertex.id} ${at}`, 'data-member': visible(member.id) },
        h('th', { scope: 'row', class: 'name' }, visible(member.id)),
        h('td', { class: 'number' }, bytes(sum)),
        h('td', { class: 'number' }, percent(total ? sum / total : 0)),
        h('td', { class: 'number' }, count(keys)),
        h('td', { class: 'number' }, bytes(max)),
        h('td', { class: `number${skew >= 2 ? ' warn' : ''}` }, skew.toFixed(2)),
        h('td', null, bars(sizes))));
    });
  }
  if (!rows.length) return h('p', { class: 'muted' }, 'No operator had keyed state at the last checkpoint.');
  return [
    table({ id: 'state-table', label: 'Keyed state by operator', rows,
      heads: ['Operator', ['Bytes', 'number'], ['Share', 'number'], ['Keys', 'number'], ['Largest subtask', 'number'], ['Skew', 'number'], 'By subtask'] }),
    h('p', { key: 'help', class: 'muted' }, 'As of the last checkpoint. Skew is the largest subtask divided by the mean: 1 is even.'),
    ...namedStates(view),
  ];
}

/** The states that operators have declared, the largest first. */
function namedStates(view) {
  const states = [...view.checkpoints.states ?? []].sort((one, other) => other.bytes - one.bytes);
  if (!states.length) return [];
  const rows = states.map((it) => h('tr', { key: `${it.operator} ${it.state}` },
    h('td', { class: 'name' }, visible(it.operator)),
    h('td', { class: 'name' }, visible(it.state)),
    h('td', { class: 'number' }, count(it.entries)),
    h('td', { class: 'number' }, bytes(it.bytes))));
  return [table({ id: 'named-states', label: 'Keyed state by name', heads: ['Operator', 'State', ['Entries', 'number'], ['Bytes', 'number']], rows })];
}

function bars(sizes) {
  const shown = sizes.slice(0, SUBTASK_BARS);
  const max = Math.max(1, ...shown);
  const width = Math.max(3, Math.min(10, Math.floor(160 / shown.length) - 2));
  const text = `Bytes by subtask: ${shown.map((size, index) => `${index}: ${bytes(size)}`).join(', ')}`;
  return h('svg', { class: 'mini', width: shown.length * (width + 2), height: 26, role: 'img', 'aria-label': text },
    h('title', null, text),
    shown.map((size, index) => {
      const height = Math.max(1, (size / max) * 24);
      return h('rect', { key: index, class: 'share busy', x: index * (width + 2), y: 25 - height, width, height });
    }));
}

/** Failures in a row that say the same, as one with how often it came; the newest first. */
function grouped(all) {
  const groups = [];
  for (const failure of all) {
    const last = groups.at(-1);
    if (last?.failure.message === failure.message) {
      last.times += 1;
      last.since = failure.at;
    } else {
      groups.push({ failure, times: 1, since: failure.at });
    }
  }
  return groups;
}

/** Failures, the newest first. */
export function failures(view, now) {
  if (!view.failures.length) return h('p', { class: 'muted' }, 'None.');
  return h('ol', { id: 'failure-list', class: 'plain' }, grouped(view.failures).map(({ failure, times, since }) => h('li', { key: `${since} ${failure.message}` },
    h('p', null,
      times > 1 && [h('b', null, `${count(times)} × since ${time(since, now)}`), ', last '],
      h('time', { title: utc(failure.at) }, time(failure.at, now)), ` (${seconds(now - failure.at)} ago): `,
      failure['restart-delay-ms'] === null || failure['restart-delay-ms'] === undefined
        ? 'not restarted.'
        : `${typeof failure['restarted-from'] === 'number' ? `restarted from checkpoint ${count(failure['restarted-from'])}` : 'restarted from the start'} after ${duration(failure['restart-delay-ms'])}.`),
    h('pre', { tabindex: '0', role: 'region', 'aria-label': 'Message' }, visibleLines(failure.message)))));
}

/** What operators count of themselves, and bad records. */
export function metrics(view, before, elapsed) {
  const rows = [];
  for (const [operator, values] of Object.entries(view['operator-metrics'] ?? {})) {
    const was = before?.['operator-metrics']?.[operator] ?? {};
    for (const [metric, value] of Object.entries(values)) {
      const grown = elapsed > 0 && typeof was[metric] === 'number' ? (value - was[metric]) / elapsed : null;
      rows.push(metricRow(operator, metric, value, grown));
    }
  }
  for (const bad of view['bad-records'] ?? []) {
    rows.push(metricRow(bad.id, 'bad records left out', bad['left-out'], null));
    rows.push(metricRow(bad.id, 'batches recovered', bad['recovered-batches'], null));
  }
  const content = rows.length
    ? table({ id: 'metrics-rows', label: 'Operator metrics', heads: ['Operator', 'Metric', ['Value', 'number'], ['Change', 'number']], rows })
    : h('p', { class: 'muted' }, 'No operator counts anything of its own.');
  return { length: rows.length, content };
}

function metricRow(operator, metric, value, grown) {
  return h('tr', { key: `${operator} ${metric}` },
    h('td', { class: 'name' }, visible(operator)), h('td', { class: 'name' }, visible(metric)),
    h('td', { class: 'number' }, count(value)), h('td', { class: 'number' }, perSecond(grown)));
}

/** The keys of the job file that have the filter's text in them. */
export function config(view, filter) {
  const all = Object.entries(view.config ?? {});
  const wanted = filter.trim().toLowerCase();
  const found = all.filter(([key, value]) => `${key} ${value}`.toLowerCase().includes(wanted));
  const content = [
    h('p', { key: 'file' }, 'Job file ', h('code', { class: 'path' }, visible(view['job-file'])),
      view.directory ? ['; checkpoints in ', h('code', { class: 'path' }, visible(view.directory))] : '; checkpoints in memory', '.'),
    found.length
      ? table({ id: 'config-rows', label: 'Config', heads: ['Key', 'Value'], rows: found.map(([key, value]) => h('tr', { key },
        h('td', null, h('code', null, visible(key))), h('td', { class: 'value' }, visible(value)))) })
      : h('p', { key: 'none', class: 'muted' }, all.length ? 'No key matches.' : 'No key is set.'),
  ];
  return { length: all.length, content };
}

/** The newest lines of the host's log; `null`: it has none for this page. */
export function log(lines, now) {
  if (lines === undefined) return h('p', { class: 'muted' }, 'Asking the host…');
  if (lines === null) return h('p', { class: 'muted' }, 'This host keeps no log for this page.');
  if (!lines.length) return h('p', { class: 'muted' }, 'No line yet.');
  return h('div', { class: 'scroll log', tabindex: '0', role: 'region', 'aria-label': 'Log' },
    h('table', { id: 'log-rows' }, h('tbody', null, lines.slice(-500).reverse().map((line) => h('tr', { key: `${line.at} ${line.text}`, class: `level-${/^[A-Z]{4,5}$/.test(line.level) ? line.level.toLowerCase() : 'other'}` },
      h('td', { title: utc(line.at) }, time(line.at, now)),
      h('td', { class: 'level' }, visible(line.level)),
      h('td', { class: 'text' }, line.count > 1 && h('b', null, `${count(line.count)} × `), visibleLines(line.text)))))));
}
