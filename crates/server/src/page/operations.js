// The buttons, their dialogs, and the operations that this page has begun.

import { ask, jobPath, NoAnswer, randomId, Refused } from './api.js';
import { draw, h } from './draw.js';
import { bytes, count, duration, visible, visibleLines } from './words.js';

const KEPT = 5;
const STORED = 'highwater-operations';
/** For how long the outcome is asked for while the host does not answer: it may have ended with the job. */
const LOST_AFTER_MS = 60_000;
const WAIT_MS = 20_000;

const byId = (id) => document.getElementById(id);
const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

/** The newest first. `job` is a rest-id. */
let operations = [];
let changed = () => {};
/** The job that the open dialog is about, whatever is chosen behind it meanwhile. */
let subject = null;

/** Connects the buttons. `current` returns the chosen job's view. */
export function connect({ current, onChange }) {
  changed = onChange;
  byId('do-checkpoint').onclick = () => begin(current(), { operation: 'checkpoint' });
  opens('do-savepoint', 'dialog-savepoint', current);
  opens('do-rescale', 'dialog-rescale', current, (view) => {
    byId('rescale-parallelism').value = String(view.parallelism);
    byId('rescale-parallelism').max = String(view['key-groups']);
    byId('dialog-rescale').querySelector('[data-help]').textContent = `Now ${view.parallelism}; at most ${view['key-groups']}, the number of key groups.`;
  });
  opens('do-stop', 'dialog-stop', current);
  opens('do-cancel', 'dialog-cancel', current);
  submits('dialog-savepoint', () => ({ operation: 'savepoint', directory: byId('savepoint-directory').value.trim() || null }));
  submits('dialog-rescale', () => {
    const parallelism = byId('rescale-parallelism').valueAsNumber;
    if (!Number.isInteger(parallelism) || parallelism < 1) throw new RangeError('The parallelism is a whole number of at least 1.');
    if (parallelism > subject['key-groups']) throw new RangeError(`The job has only ${subject['key-groups']} key groups.`);
    return { operation: 'rescale', parallelism };
  });
  submits('dialog-stop', () => ({
    operation: 'stop', drain: byId('stop-drain').checked, 'savepoint-directory': byId('stop-directory').value.trim() || null,
  }));
  submits('dialog-cancel', () => ({ operation: 'cancel' }));
  for (const button of document.querySelectorAll('[data-close]')) {
    button.onclick = () => button.closest('dialog').close();
  }
  resume();
}

/** Enables the buttons, or not. */
export function enable(view, isAllowed, hasEnded) {
  const isBusy = operations.some((operation) => operation.job === view['rest-id'] && operation.state === 'in-progress');
  for (const id of ['do-checkpoint', 'do-savepoint', 'do-rescale', 'do-stop']) byId(id).disabled = !isAllowed || hasEnded || isBusy;
  // What is in progress may take long. To cancel the job is possible all the same.
  byId('do-cancel').disabled = !isAllowed || hasEnded;
}

function opens(button, dialog, current, prepare = () => {}) {
  byId(button).onclick = () => {
    subject = current();
    if (!subject) return;
    const element = byId(dialog);
    element.querySelector('form').reset();
    element.querySelector('[data-job]').textContent = visible(subject.name);
    const wrong = element.querySelector('[data-wrong]');
    if (wrong) wrong.textContent = '';
    prepare(subject);
    element.showModal();
  };
}

function submits(dialog, request) {
  const element = byId(dialog);
  element.querySelector('form').onsubmit = (event) => {
    event.preventDefault();
    let asked;
    try {
      asked = request();
    } catch (error) {
      element.querySelector('[data-wrong]').textContent = error.message;
      return;
    }
    element.close();
    begin(subject, asked);
  };
}

function begin(view, request) {
  if (!view) return;
  const id = randomId();
  const operation = { id, job: view['rest-id'], word: request.operation, state: 'in-progress', progress: 'asked for', version: 0 };
  operations.unshift(operation);
  operations = operations.slice(0, KEPT);
  store();
  changed();
  follow(operation, { 'request-id': id, ...request });
}

/** Follows an operation to its end. The same request id is the same operation, so to ask again is safe. */
async function follow(operation, request) {
  const path = jobPath(operation.job);
  if (!path) return end(operation, { state: 'failed', error: { message: `the job's id \`${visible(operation.job)}\` is not one` } });
  let isBegun = !request;
  let silentSince = null;
  let delayMs = 500;
  for (;;) {
    try {
      const url = `${path}/operations`;
      const status = isBegun
        ? await ask(`${url}/${operation.id}?wait=${WAIT_MS}&seen=${operation.version}`, { timeoutMs: WAIT_MS + 10_000 })
        : await ask(url, { method: 'POST', body: request });
      isBegun = true;
      silentSince = null;
      delayMs = 500;
      if (status.state === 'done' || status.state === 'failed') return end(operation, status);
      const isNew = status.version !== operation.version;
      Object.assign(operation, { version: Number(status.version) || 0, progress: status.progress });
      changed();
      // A host that answers at once must not be asked in a loop.
      if (!isNew) await pause(200);
    } catch (error) {
      if (error instanceof Refused && error.status === 401) {
        // The page's own polls ask for it.
        operation.progress = 'waits for the token';
        changed();
      } else if (error instanceof Refused && error.status < 500) {
        return end(operation, { state: 'failed', error });
      } else if (error instanceof Refused && !isBegun) {
        return end(operation, { state: 'failed', error });
      } else if (error instanceof Refused || error instanceof NoAnswer) {
        silentSince ??= Date.now();
        if (Date.now() - silentSince > LOST_AFTER_MS) {
          const message = 'the host ended or did not answer, so what became of the operation is unknown';
          return end(operation, { state: 'failed', error: { message, hint: 'look at the job, or at the log of the host' } });
        }
        operation.progress = ['cancel', 'stop'].includes(operation.word)
          ? 'the host does not answer: it has probably ended with its job; it is asked again'
          : 'no answer from the host; it is asked again';
        changed();
      } else {
        throw error;
      }
      await pause(delayMs);
      delayMs = Math.min(delayMs * 2, 5000);
    }
  }
}

function end(operation, { state, report, error }) {
  Object.assign(operation, { state, report, error: error && { message: error.message, hint: error.hint } });
  store();
  changed();
}

// A page that is loaded again goes on with what was begun in the same tab.
function store() {
  const open = operations.filter((operation) => operation.state === 'in-progress')
    .map(({ id, job, word }) => ({ id, job, word }));
  sessionStorage.setItem(STORED, JSON.stringify(open));
}

function resume() {
  let stored;
  try {
    stored = JSON.parse(sessionStorage.getItem(STORED) ?? '[]');
  } catch {
    return;
  }
  for (const { id, job, word } of stored) {
    const operation = { id, job, word, state: 'in-progress', progress: 'asked for', version: 0 };
    operations.push(operation);
    follow(operation, null);
  }
}

/** Shows the operations of a job, the newest first. */
export function showOperations(element, restId) {
  const shown = operations.filter((operation) => operation.job === restId);
  if (shown.length) {
    element.dataset.state = shown[0].state;
    element.dataset.operation = shown[0].word;
  } else {
    delete element.dataset.state;
    delete element.dataset.operation;
  }
  draw(element, shown.map(describe));
}

const TITLES = { checkpoint: 'Checkpoint', savepoint: 'Savepoint', stop: 'Stop', cancel: 'Cancel', rescale: 'Rescale' };
const LEVELS = { 'in-progress': 'info', done: 'good', failed: 'bad' };

function describe(operation) {
  const { state, word } = operation;
  const title = TITLES[word] ?? visible(word);
  const dismiss = () => {
    operations = operations.filter((other) => other !== operation);
    changed();
  };
  return h('div', { key: operation.id, class: `notice ${LEVELS[state] ?? ''}`, 'data-operation': word, 'data-state': state, 'data-request-id': operation.id },
    h('div', { class: 'head' },
      h('span', null, h('b', null, `${title}: ${{ 'in-progress': 'in progress', done: 'done', failed: 'failed' }[state] ?? ''}`),
        state === 'in-progress' && [' ', h('span', { class: 'progress' }, visible(operation.progress))],
        state === 'done' && operation.report && ` in ${duration(operation.report['duration-ms'])}`),
      state === 'in-progress'
        ? h('span', { class: 'spinner', 'aria-hidden': 'true' })
        : h('button', { type: 'button', class: 'small', 'aria-label': `Dismiss: ${title}`, on: { click: dismiss } }, 'Dismiss')),
    state === 'done' && operation.report && report(operation.report),
    state === 'failed' && [
      h('div', { class: 'cause' }, visibleLines(operation.error?.message)),
      operation.error?.hint && h('div', { class: 'hint' }, 'Hint: ', visibleLines(operation.error.hint))]);
}

function report({ savepoint, checkpoint, ended, resume: command, before, now }) {
  return h('dl', { class: 'pairs' },
    taken('Savepoint', savepoint), taken('Checkpoint', checkpoint),
    ended && [h('dt', null, 'The job is'), h('dd', { 'data-report': 'ended' }, visible(ended))],
    now && [h('dt', null, 'Now'), h('dd', { 'data-report': 'now' }, visible(now), before && ` (before: ${visible(before)})`)],
    command && [h('dt', null, 'Resume with'), h('dd', { 'data-report': 'resume' }, copyable(command))]);
}

function taken(name, it) {
  if (!it) return null;
  return [h('dt', null, name), h('dd', { 'data-report': name.toLowerCase() },
    `#${count(it.id)}, ${bytes(it.bytes)} in ${duration(it['duration-ms'])}, `, it.path ? copyable(it.path) : 'in memory')];
}

/** A text and a button that copies it. A text with characters that cannot be seen is not copied: a shell would run
 * something else than what is read here. */
function copyable(text) {
  const shown = visible(text);
  const copy = async (event) => {
    const button = event.currentTarget;
    const code = button.previousElementSibling;
    let word = 'Copied';
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without HTTPS a page may not write to the clipboard, except on localhost.
      document.getSelection().selectAllChildren(code);
      word = 'Selected';
    }
    button.firstChild.data = word;
    setTimeout(() => { if (button.firstChild) button.firstChild.data = 'Copy'; }, 1500);
  };
  return h('span', { class: 'copyable' }, h('code', { class: 'path' }, shown),
    shown === text && h('button', { type: 'button', class: 'small', 'data-copy': true, on: { click: copy } }, 'Copy'));
}
