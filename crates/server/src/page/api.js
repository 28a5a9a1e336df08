// Asks the host that served this page.

const TOKEN = 'highwater-token';

/** The host has answered that it does not do what was asked. */
export class Refused extends Error {
  constructor(status, message, hint) {
    super(message);
    this.status = status;
    this.hint = hint;
  }
}

/** The host has not answered, or what answered is not the host. */
export class NoAnswer extends Error {}

/** How far the host's clock is ahead of ours. Ages would be wrong by that much. */
let clockOffset = 0;

/** The host's time, in milliseconds since 1970. */
export function hostNow() {
  return Date.now() + clockOffset;
}

export function setToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

export function forgetToken() {
  sessionStorage.removeItem(TOKEN);
}

/** What a header can carry: anything else would make every request fail without a reason. */
export function isToken(token) {
  return /^[\x21-\x7e]{1,4096}$/.test(token);
}

/** Where a checkpoint of a job is in full, or `null`, as below. */
export function checkpointPath(restId, number) {
  return jobPath(restId) && Number.isSafeInteger(number) ? `/v1/views/${restId}/checkpoints/${number}` : null;
}

/** A job's path in the API, or `null`: an id of another form could name another path. */
export function jobPath(restId) {
  return /^[0-9a-f]{32}$/.test(restId) ? `/v1/jobs/${restId}` : null;
}

export function randomId() {
  const random = crypto.getRandomValues(new Uint8Array(16));
  return [...random].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

/**
 * The JSON of an answer.
 *
 * Throws `Refused` or `NoAnswer`.
 */
export async function ask(path, { method = 'GET', body, timeoutMs = 10_000 } = {}) {
  const headers = { accept: 'application/json' };
  const token = sessionStorage.getItem(TOKEN);
  if (token) headers.authorization = `Bearer ${token}`;
  if (body) headers['content-type'] = 'application/json';
  let response;
  let text;
  const asked = Date.now();
  try {
    response = await fetch(path, {
      method,
      headers,
      body: body && JSON.stringify(body),
      cache: 'no-store',
      credentials: 'same-origin',
      redirect: 'error',
      signal: AbortSignal.timeout(timeoutMs),
    });
    text = await response.text();
  } catch {
    throw new NoAnswer('no answer from the host');
  }
  readClock(response.headers.get('date'), asked);
  let json;
  try {
    json = JSON.parse(text);
  } catch {
    json = undefined;
  }
  if (!response.ok) {
    const said = json?.message ?? json?.errors?.[0];
    const message = typeof said === 'string' ? said : `the host answered with status ${response.status}`;
    throw new Refused(response.status, message, typeof json?.hint === 'string' ? json.hint : null);
  }
  if (json === undefined) throw new NoAnswer('the answer is not JSON');
  return json;
}

// The header has whole seconds and the answer took a while, so small differences say nothing.
function readClock(date, asked) {
  const theirs = Date.parse(date ?? '');
  if (Number.isNaN(theirs)) return;
  const offset = theirs + 500 - (asked + Date.now()) / 2;
  clockOffset = Math.abs(offset) > 2000 ? offset : 0;
}
