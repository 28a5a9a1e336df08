// Watches the jobs of a host: asks once a second, and draws what changed.

import { ask, checkpointPath, forgetToken, hostNow, isToken, NoAnswer, Refused, setToken } from './api.js';
import { checkpointsChart, throughputChart } from './charts.js';
import { history, summary } from './checkpoints.js';
import { draw, h } from './draw.js';
import { graph, subtasks } from './graph.js';
import { connect, enable, showOperations } from './operations.js';
import * as panels from './panels.js';
import { records, vertices } from './rates.js';
import { seconds, short, time, utc, visible, visibleLines } from './words.js';

const POLL_MS = 1000;
const BACKOFF_MS_MAX = 10_000;
/** How many polls pass between two questions for what changes rarely. */
const HOST_EVERY = 5;
const LOG_EVERY = 3;
const TABS_MAX = 8;
/** Ten minutes. */
const POINTS_MAX = 600;

const byId = (id) => document.getElementById(id);
const narrow = matchMedia('(max-width: 700px)');
const dark = matchMedia('(prefers-color-scheme: dark)');

const page = {
  host: null,
  jobs: null,
  /** By rest-id: this view and the one before, and what was read and written since the page was opened. */
  samples: new Map(),
  log: undefined,
  answeredAt: null,
  error: null,
  triedAt: null,
  retryMs: POLL_MS,
};

/** What is unfolded, by rest-id. */
const unfolded = new Map();

function folds(restId) {
  if (!unfolded.has(restId)) unfolded.set(restId, { checkpoints: new Set(), subtasks: new Map(), areAll: false, vertex: null });
  return unfolded.get(restId);
}

function chosen() {
  const wanted = location.hash.slice(1);
  return page.jobs?.find((job) => job['rest-id'] === wanted) ?? page.jobs?.[0] ?? null;
}

// Polling

const isUnauthorized = (error) => error instanceof Refused && error.status === 401;

let polls = 0;
let timer = null;
let isPolling = false;

async function poll() {
  clearTimeout(timer);
  if (isPolling || document.hidden) return;
  isPolling = true;
  try {
    if (!page.host || polls % HOST_EVERY === 0) page.host = await ask('/v1');
    take(await ask('/v1/views'));
    // The log is an extra: without it the page says all the rest.
    if (byId('log').open && page.log !== null && polls % LOG_EVERY === 0) await readLog();
    polls += 1;
    Object.assign(page, { error: null, retryMs: POLL_MS });
  } catch (error) {
    if (!(error instanceof Refused) && !(error instanceof NoAnswer)) console.error(error);
    page.retryMs = page.error ? Math.min(page.retryMs * 2, BACKOFF_MS_MAX) : POLL_MS;
    page.error = error;
    // The host may be another one when it answers again.
    polls = 0;
    page.log = undefined;
    if (isUnauthorized(error)) askForToken();
  }
  isPolling = false;
  page.triedAt = Date.now();
  render();
  // Without a token there is nothing to ask; wrong ones sent again would look like an attack.
  if (!isUnauthorized(page.error)) timer = setTimeout(poll, page.retryMs);
}

function take(jobs) {
  if (!Array.isArray(jobs)) throw new NoAnswer('the answer is no list of jobs');
  const at = performance.now();
  const samples = new Map();
  for (const view of jobs) {
    const was = page.samples.get(view['rest-id']);
    const before = was?.view ?? null;
    const elapsed = was ? (at - was.at) / 1000 : 0;
    const read = records(view.sources, before?.sources, elapsed);
    const written = records(view.sinks, before?.sinks, elapsed);
    const points = was?.points ?? [];
    if (before) points.push({ at: Date.now(), read: read.rate, written: written.rate });
    if (points.length > POINTS_MAX) points.shift();
    samples.set(view['rest-id'], { view, before, at, elapsed, read, written, points, rates: vertices(view, before, elapsed) });
  }
  Object.assign(page, { jobs, samples, answeredAt: Date.now() });
}

/** What each subtask did for a checkpoint, once somebody wants to see it: the list of checkpoints leaves it out. */
async function readSubtasks(restId, known, id) {
  const path = checkpointPath(restId, id);
  if (!path || known.get(id)) return;
  try {
    const { outcome } = await ask(path);
    known.set(id, outcome.subtasks ?? {});
  } catch (error) {
    if (!(error instanceof Refused) && !(error instanceof NoAnswer)) throw error;
    // It may be forgotten by now.
    known.set(id, null);
  }
  render();
}

async function readLog() {
  try {
    const { lines } = await ask('/v1/log');
    page.log = Array.isArray(lines) ? lines : null;
  } catch (error) {
    if (!(error instanceof Refused) || isUnauthorized(error)) throw error;
    page.log = null;
  }
}

// The token

function askForToken() {
  const dialog = byId('dialog-token');
  if (dialog.open) return;
  forgetToken();
  byId('token').value = '';
  dialog.showModal();
}

function useToken(event) {
  event.preventDefault();
  const token = byId('token').value.trim();
  const isUsable = isToken(token);
  byId('dialog-token').querySelector('[data-wrong]').textContent = isUsable ? '' : 'A token has only letters, digits and signs, without spaces.';
  if (!isUsable) return;
  setToken(token);
  byId('token').value = '';
  byId('dialog-token').close();
  poll();
}

// Drawing

const drawCheckpoints = checkpointsChart(byId('checkpoints-chart'), byId('checkpoints-legend'));
const drawThroughput = throughputChart(byId('throughput-chart'), byId('throughput-legend'));

function render() {
  try {
    renderConnection();
    renderHeader();
    renderJob();
  } catch (error) {
    console.error(error);
    draw(byId('connection'), h('p', { class: 'notice bad' }, `This page could not show what the host sent: ${error.message}`));
  }
}

function renderConnection() {
  const { error, answeredAt, retryMs, triedAt } = page;
  document.body.classList.toggle('stale', error !== null && page.jobs !== null);
  if (!error) return draw(byId('connection'));
  const shown = answeredAt ? `What is shown is from ${time(answeredAt, Date.now())}.` : '';
  const needsToken = isUnauthorized(error);
  const what = error instanceof Refused ? visible(error.message) : 'No answer from the host.';
  const next = isPolling ? 'Asking…' : `Next try in ${seconds(Math.max(0, triedAt + retryMs - Date.now()))}.`;
  return draw(byId('connection'), h('p', { class: 'notice bad', 'data-notice': needsToken ? 'token' : 'no-answer' },
    h('b', null, what), ` ${shown} `,
    error.hint && `Hint: ${visible(error.hint)} `,
    needsToken
      ? h('button', { type: 'button', on: { click: askForToken } }, 'Enter the token')
      // Told to a screen reader once, not with every second.
      : h('span', { 'aria-hidden': 'true' }, next)));
}

/** Job files that the host does not run: nobody would miss the jobs on the page. */
function renderRefused(host) {
  draw(byId('refused'), (host?.refused ?? []).map(({ file, error }) => h('div', { key: file, class: 'notice bad', 'data-notice': 'refused' },
    h('b', null, `The host does not run ${visible(file)} as it stands`), h('div', { class: 'cause' }, visibleLines(error)))));
}

function renderHeader() {
  const { host, jobs } = page;
  renderRefused(host);
  draw(byId('host'), host && `${visible(host.version)} · process ${visible(host.process)}${host['read-only'] ? ' · read-only' : ''}`);
  const job = chosen();
  document.title = job ? `${short(job.name, 40)}: ${visible(job.state)} – Highwater` : 'Highwater';
  if (!jobs) return draw(byId('jobs'));
  if (!jobs.length) return draw(byId('jobs'), h('p', { class: 'muted', id: 'no-jobs' }, 'This host has no job.'));
  const choose = (restId) => {
    location.hash = restId;
  };
  if (jobs.length > TABS_MAX) {
    draw(byId('jobs'), h('label', { for: 'job-select' }, 'Job '),
      h('select', { id: 'job-select', on: { change: (event) => choose(event.currentTarget.value) } },
        jobs.map((it) => h('option', { key: it['rest-id'], value: it['rest-id'] }, `${short(it.name, 60)}: ${visible(it.state)}`))));
    if (byId('job-select').value !== job['rest-id']) byId('job-select').value = job['rest-id'];
    return undefined;
  }
  return draw(byId('jobs'), jobs.map((it) => h('button', {
    key: it['rest-id'], type: 'button', class: 'tab', 'data-job': it['rest-id'], title: visible(it.name),
    'aria-current': it === job ? 'true' : null, on: { click: () => choose(it['rest-id']) },
  }, h('i', { class: `dot state-${visible(it.state)}`, 'aria-hidden': 'true' }), h('span', { class: 'name' }, short(it.name, 40)),
  h('span', { class: 'hidden' }, `, ${visible(it.state)}`))));
}

function renderJob() {
  const view = chosen();
  byId('main').hidden = !view;
  if (!view) return;
  const restId = view['rest-id'];
  const { before, elapsed, read, written, points, rates } = page.samples.get(restId);
  const now = hostNow();
  const fold = folds(restId);
  const isOver = panels.hasEnded(view);

  byId('main').dataset.job = restId;
  draw(byId('job-name'), visible(view.name));
  const state = byId('job-state');
  state.className = `state state-${visible(view.state)}`;
  state.dataset.state = visible(view.state);
  draw(state, visible(view.state));
  draw(byId('state-since'), h('time', { title: utc(view['state-since']) }, `since ${time(view['state-since'], now)} (${seconds(now - view['state-since'])})`));
  byId('actions').hidden = page.host?.['read-only'] === true;
  enable(view, !page.error, isOver);
  draw(byId('notices'), panels.notices(view, now));
  showOperations(byId('outcome'), restId);
  draw(byId('facts'), panels.facts({ view, read, written, now, rates }));

  const choose = (id) => {
    fold.vertex = id;
    render();
  };
  draw(byId('graph'), graph({ view, rates, now, chosen: fold.vertex, isTall: narrow.matches, choose }));
  const vertex = view.vertices.find((it) => it.id === fold.vertex);
  draw(byId('subtasks'), subtasks({ vertex, rates: rates.get(fold.vertex), now, close: () => closeSubtasks(choose) }));

  drawThroughput(restId, points);
  draw(byId('checkpoints-summary'), summary(view, now));
  drawCheckpoints(view);
  draw(byId('checkpoints-history'), history({
    view,
    now,
    open: fold.checkpoints,
    subtasks: fold.subtasks,
    toggle: (id) => {
      if (!fold.checkpoints.delete(id)) {
        fold.checkpoints.add(id);
        readSubtasks(restId, fold.subtasks, id);
      }
      render();
    },
    isWhole: fold.areAll,
    showAll: () => {
      fold.areAll = !fold.areAll;
      render();
    },
  }));
  draw(byId('state'), panels.state(view));
  draw(byId('failures'), panels.failures(view, now));
  const metrics = panels.metrics(view, before, elapsed);
  draw(byId('metrics-count'), `(${metrics.length})`);
  draw(byId('metrics-table'), metrics.content);
  const config = panels.config(view, byId('config-filter').value);
  draw(byId('config-count'), `(${config.length})`);
  draw(byId('config-table'), config.content);
  if (byId('log').open) draw(byId('log-lines'), panels.log(page.log, now));
}

// The button that was pressed goes away; the focus goes back to where it came from.
function closeSubtasks(choose) {
  const box = document.querySelector('#graph .vertex.chosen');
  choose(null);
  box?.focus();
}

draw(byId('graph-legend'),
  [['busy', 'Busy'], ['pressed', 'Back-pressured: those after it have no room'], ['idle', 'Idle']].map(([name, text]) => h('span', { key: name, class: 'item' }, h('i', { class: `swatch ${name}` }), text)),
  h('span', { key: 'who', class: 'item' }, 'Shown is the subtask that is held up most, or else works most.'));

connect({
  current: chosen,
  onChange: () => page.jobs && render(),
});
byId('dialog-token').querySelector('form').onsubmit = useToken;
byId('config-filter').oninput = render;
byId('log').ontoggle = async () => {
  if (!byId('log').open) return;
  if (page.log === undefined) await readLog().catch(() => {});
  render();
};
addEventListener('hashchange', () => {
  if (location.hash !== '#main') render();
});
addEventListener('resize', () => page.jobs && render());
document.addEventListener('visibilitychange', () => {
  if (!document.hidden) poll();
});
dark.addEventListener('change', () => page.jobs && render());
// Between two polls that fail only the count of seconds changes.
setInterval(() => {
  if (page.error && !document.hidden) renderConnection();
}, 1000);
poll();
