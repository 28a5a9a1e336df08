// Puts numbers, times and names into words.

// Control characters, bidirectional controls, invisible characters, line separators, half surrogates and tags: what
// could make a name look like another one.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u115f\u1160\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\ufff9-\ufffb]|\p{Cs}|[\u{e0000}-\u{e007f}]/gu;

/** A name or a line of text, with what cannot be seen written out. */
export function visible(text) {
  return String(text ?? '').replace(UNSEEN, escape);
}

/** A text of several lines. */
export function visibleLines(text) {
  return String(text ?? '').replace(/\r\n/g, '\n')
    .replace(UNSEEN, (found) => (found === '\n' || found === '\t' ? found : escape(found)));
}

function escape(found) {
  return `\\u{${found.codePointAt(0).toString(16)}}`;
}

/** The first characters of a text. */
export function short(text, max) {
  const all = [...visible(text)];
  return all.length > max ? `${all.slice(0, max - 1).join('')}…` : all.join('');
}

/** A text's first line. */
export function firstLine(text) {
  return visible(String(text ?? '').trimStart().split('\n', 1)[0]);
}

const isNumber = (value) => typeof value === 'number' && Number.isFinite(value);

/** All digits of a whole number. */
export function count(value) {
  return isNumber(value) ? Math.round(value).toLocaleString('en') : '–';
}

export function plural(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/** A number in at most about four characters and a unit. */
export function rough(value) {
  if (!isNumber(value)) return '–';
  for (const [size, unit] of [[1e12, ' T'], [1e9, ' G'], [1e6, ' M'], [1e3, ' k']]) {
    if (Math.abs(value) >= size * 0.9995) return `${digits(value / size)}${unit}`;
  }
  return digits(value);
}

function digits(value) {
  const size = Math.abs(value);
  if (size >= 99.95 || Number.isInteger(value)) return String(Math.round(value));
  return value.toFixed(size >= 9.995 ? 1 : 2);
}

export function perSecond(value) {
  return isNumber(value) ? `${rough(value)}/s` : '–';
}

export function bytes(value) {
  if (!isNumber(value)) return '–';
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];
  let unit = 0;
  let size = value;
  while (size >= 1023.5 && unit < units.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${digits(size)} ${units[unit]}`;
}

/** A duration in milliseconds. */
export function duration(ms) {
  if (!isNumber(ms)) return '–';
  if (ms < 0) return `−${duration(-ms)}`;
  if (ms < 1000) return `${digits(Math.round(ms))} ms`;
  if (ms < 59_950) return `${digits(ms / 1000)} s`;
  const seconds = Math.round(ms / 1000);
  const parts = [[86_400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']];
  const first = parts.findIndex(([size]) => seconds >= size);
  const [size, unit] = parts[first];
  const rest = Math.floor((seconds % size) / (parts[first + 1]?.[0] ?? 1));
  const more = parts[first + 1] && rest > 0 ? ` ${rest} ${parts[first + 1][1]}` : '';
  return `${Math.floor(seconds / size)} ${unit}${more}`;
}

/** A duration for something that is told every second: whole seconds. */
export function seconds(ms) {
  return isNumber(ms) ? (ms < 59_950 ? `${Math.max(0, Math.round(ms / 1000))} s` : duration(ms)) : '–';
}

/** A duration in microseconds. */
export function micros(us) {
  if (!isNumber(us)) return '–';
  return us < 1000 ? `${Math.round(us)} µs` : us < 1_000_000 ? `${digits(us / 1000)} ms` : duration(us / 1000);
}

export function percent(share) {
  return isNumber(share) ? `${Math.round(share * 100)} %` : '–';
}

/** A time of the wall clock, here; with its day unless that is today's. */
export function time(ms, now) {
  const date = toDate(ms);
  if (!date) return '–';
  const two = (value) => String(value).padStart(2, '0');
  const clock = `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  if (isNumber(now) && toDate(now)?.toDateString() === date.toDateString()) return clock;
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock}`;
}

/** A time in UTC, to compare with a log. */
export function utc(ms) {
  return toDate(ms)?.toISOString() ?? '';
}

// An event time may be anything; what no date can be is not shown as one.
function toDate(ms) {
  const date = new Date(isNumber(ms) ? ms : NaN);
  return Number.isNaN(date.getTime()) ? null : date;
}
