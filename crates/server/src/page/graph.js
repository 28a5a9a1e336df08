// The job graph: a box for each vertex, laid out by its distance from the sources, and the subtasks of the one that
// is chosen.

import { h, table } from './draw.js';
import { bytes, count, duration, percent, perSecond, plural, short, time, utc, visible } from './words.js';

const BOX = { width: 260, line: 18, head: 12, foot: 108, members: 8, kind: 66 };
const GAP = { layer: 92, row: 26 };
const MARGIN = 8;
/** From here on a subtask is called back-pressured, and from there on strongly. */
const PRESSURE = { some: 0.1, high: 0.5 };

/** The graph as an SVG; `isTall`: from top to bottom. */
export function graph({ view, rates, now, chosen, isTall, choose }) {
  const layout = place(view.vertices, isTall);
  return h('svg', {
    width: layout.width, height: layout.height, viewBox: `0 0 ${layout.width} ${layout.height}`,
    role: 'group', 'aria-label': `Job graph with ${plural(view.vertices.length, 'vertex', 'vertices')}`,
  },
  layout.edges.map((edge, index) => drawEdge(edge, index, isTall)),
  view.vertices.map((vertex) => drawVertex({
    vertex, rates: rates.get(vertex.id), at: layout.boxes.get(vertex), now, isChosen: vertex.id === chosen, choose,
  })));
}

/** `some`, `high`, `none`, or `unknown` as long as there is only one poll. */
export function pressure(share) {
  if (typeof share !== 'number') return 'unknown';
  if (share < PRESSURE.some) return 'none';
  return share >= PRESSURE.high ? 'high' : 'some';
}

function boxHeight(vertex) {
  const lines = Math.min(vertex.members.length, BOX.members + 1);
  return BOX.head + lines * BOX.line + BOX.foot;
}

/** Where the boxes and edges are. An edge that passes a layer gets a place there, so that no box hides it. */
function place(vertices, isTall) {
  const depth = depths(vertices);
  const layers = [];
  const slots = new Map();
  const add = (slot) => {
    (layers[slot.layer] ??= []).push(slot);
    return slot;
  };
  for (const vertex of vertices) {
    slots.set(vertex, add({ vertex, layer: depth.get(vertex), before: [], width: BOX.width, height: boxHeight(vertex) }));
  }
  const byId = new Map(vertices.map((vertex) => [vertex.id, vertex]));
  const edges = [];
  for (const vertex of vertices) {
    for (const input of vertex.inputs) {
      const from = slots.get(byId.get(input.vertex));
      const to = slots.get(vertex);
      if (!from) continue;
      const path = [from];
      for (let layer = from.layer + 1; layer < to.layer; layer += 1) {
        path.push(add({ layer, before: [path.at(-1)], width: isTall ? 16 : BOX.width, height: isTall ? 40 : 12 }));
      }
      to.before.push(path.at(-1));
      path.push(to);
      edges.push({ path, partition: input.partition });
    }
  }
  for (const layer of layers) order(layer);
  return { ...coordinates(layers, isTall), boxes: new Map([...slots]), edges };
}

/** The longest way from a source to each vertex. Rounds are bounded: the host's word that there is no cycle is not
 * enough to loop for. */
function depths(vertices) {
  const depth = new Map(vertices.map((vertex) => [vertex, 0]));
  const byId = new Map(vertices.map((vertex) => [vertex.id, vertex]));
  for (let round = 0; round < vertices.length; round += 1) {
    let isChanged = false;
    for (const vertex of vertices) {
      for (const input of vertex.inputs) {
        const from = byId.get(input.vertex);
        if (!from || from === vertex) continue;
        const least = Math.min(depth.get(from) + 1, vertices.length - 1);
        if (least > depth.get(vertex)) {
          depth.set(vertex, least);
          isChanged = true;
        }
      }
    }
    if (!isChanged) break;
  }
  // A layer without a vertex would be a gap.
  const used = [...new Set(depth.values())].sort((a, b) => a - b);
  for (const [vertex, value] of depth) depth.set(vertex, used.indexOf(value));
  return depth;
}

/** Puts each slot near those that it takes records from. */
function order(layer) {
  const wish = (slot) => (slot.before.length
    ? slot.before.reduce((total, from) => total + (from.row ?? 0), 0) / slot.before.length
    : Infinity);
  const wishes = new Map(layer.map((slot) => [slot, wish(slot)]));
  layer.sort((a, b) => (wishes.get(a) === wishes.get(b) ? 0 : wishes.get(a) - wishes.get(b)));
  layer.forEach((slot, row) => { slot.row = row; });
}

function coordinates(layers, isTall) {
  const along = isTall ? 'height' : 'width';
  const across = isTall ? 'width' : 'height';
  const [x, y] = isTall ? ['y', 'x'] : ['x', 'y'];
  const breadth = (layer) => layer.reduce((total, slot) => total + slot[across], 0) + GAP.row * (layer.length - 1);
  const widest = Math.max(0, ...layers.map(breadth));
  let position = MARGIN;
  for (const layer of layers) {
    let offset = MARGIN + (widest - breadth(layer)) / 2;
    const thickest = Math.max(...layer.map((slot) => slot[along]));
    for (const slot of layer) {
      slot[x] = position;
      slot[y] = offset;
      offset += slot[across] + GAP.row;
    }
    position += thickest + (isTall ? 56 : GAP.layer);
  }
  const length = Math.max(position - (isTall ? 56 : GAP.layer), 0) + MARGIN;
  const other = widest + 2 * MARGIN;
  return isTall ? { width: other, height: length } : { width: length, height: other };
}

function drawEdge({ path, partition }, index, isTall) {
  const out = (slot) => (isTall ? [slot.x + slot.width / 2, slot.y + slot.height] : [slot.x + slot.width, slot.y + slot.height / 2]);
  const into = (slot) => (isTall ? [slot.x + slot.width / 2, slot.y] : [slot.x, slot.y + slot.height / 2]);
  let d = '';
  for (let step = 1; step < path.length; step += 1) {
    const [x1, y1] = out(path[step - 1]);
    const [x2, y2] = into(path[step]);
    const bend = isTall ? `${x1} ${(y1 + y2) / 2} ${x2} ${(y1 + y2) / 2}` : `${(x1 + x2) / 2} ${y1} ${(x1 + x2) / 2} ${y2}`;
    d += step === 1 ? `M${x1} ${y1}` : `L${x1} ${y1}`;
    d += `C${bend} ${x2} ${y2}`;
  }
  const [x, y] = into(path.at(-1));
  const head = isTall ? `M${x - 4} ${y - 8}L${x} ${y}L${x + 4} ${y - 8}Z` : `M${x - 8} ${y - 4}L${x} ${y}L${x - 8} ${y + 4}Z`;
  // An edge that passes a layer is alone there; elsewhere it shares the way with its neighbours.
  const [sx, sy] = path.length > 2 ? into(path[1]) : out(path[0]);
  const [ex, ey] = path.length > 2 ? out(path[1]) : into(path[1]);
  const label = isTall
    ? { x: (sx + ex) / 2 + 8, y: (sy + ey) / 2 + 4, 'text-anchor': 'start' }
    : { x: (sx + ex) / 2, y: (sy + ey) / 2 - 6, 'text-anchor': 'middle' };
  return h('g', { key: `edge ${index}`, class: 'edge', 'data-partition': visible(partition) },
    h('path', { class: 'line', d }),
    h('path', { class: 'arrow', d: head }),
    h('text', label, short(partition, 12)));
}

function drawVertex({ vertex, rates, at, now, isChosen, choose }) {
  const level = pressure(rates?.backPressured);
  const shown = vertex.members.slice(0, vertex.members.length > BOX.members ? BOX.members : undefined);
  const left = vertex.members.length - shown.length;
  const lines = shown.length + (left ? 1 : 0);
  const base = BOX.head + lines * BOX.line;
  const inner = BOX.width - 24;
  const marks = rates?.watermark ?? null;
  const shares = rates?.worst?.shares;
  const text = shares ? `busy ${percent(shares.busy)} · back-pressured ${percent(shares.backPressured)}` : 'busy –';
  const size = vertex.subtasks.length;
  const who = shares && size > 1 ? `subtask ${rates.worst.index} of ${size}` : plural(size, 'subtask');
  const toggle = () => choose(isChosen ? null : vertex.id);
  return h('g', {
    key: `vertex ${vertex.id}`, class: `vertex pressure-${level}${isChosen ? ' chosen' : ''}`, tabindex: '0', role: 'button',
    'aria-expanded': String(isChosen), 'aria-controls': 'subtasks', 'data-vertex': visible(vertex.id),
    'aria-label': `Vertex ${visible(vertex.name)}: ${perSecond(rates?.recordsIn)} in, `
      + `${perSecond(rates?.recordsOut)} out, ${who}, ${text}${lag(marks, now)}. Show its subtasks`,
    transform: `translate(${at.x} ${at.y})`,
    on: {
      click: toggle,
      keydown: (event) => {
        if (event.key !== 'Enter' && event.key !== ' ') return;
        event.preventDefault();
        toggle();
      },
    },
  },
  h('title', null, visible(vertex.name)),
  h('rect', { class: 'box', x: 1, y: 1, width: BOX.width - 2, height: at.height - 2, rx: 8 }),
  // A nested SVG clips a name that is wider than its characters promise.
  h('svg', { x: 12, y: 0, width: inner, height: at.height },
    shown.map((member, index) => h('g', { key: `member ${index}` },
      h('svg', { x: 0, y: BOX.head + index * BOX.line - 4, width: inner - BOX.kind, height: BOX.line + 4 },
        h('text', { class: 'member', x: 0, y: 16 }, short(member.id, 26))),
      h('text', { class: 'kind', x: inner, y: BOX.head + index * BOX.line + 12, 'text-anchor': 'end' }, visible(member.kind)))),
    left > 0 && h('text', { key: 'left', class: 'kind', x: 0, y: BOX.head + shown.length * BOX.line + 12 }, `and ${left} more`),
    h('line', { key: 'rule', class: 'rule', x1: 0, x2: inner, y1: base + 3.5, y2: base + 3.5 }),
    h('text', { key: 'in', class: 'rate', x: 0, y: base + 22 }, `in ${perSecond(rates?.recordsIn)}`),
    h('text', { key: 'out', class: 'rate', x: inner, y: base + 22, 'text-anchor': 'end' }, `out ${perSecond(rates?.recordsOut)}`),
    h('g', { key: 'bar' }, bar(shares, 0, base + 31, inner, 8)),
    h('text', { key: 'shares', class: 'small', x: 0, y: base + 56 }, text),
    h('text', { key: 'who', class: 'small', x: 0, y: base + 73 }, who),
    h('text', { key: 'mark', class: 'small', x: 0, y: base + 92 }, marks === null ? 'no watermark' : `watermark ${time(marks, now)}`),
    marks !== null && h('text', { key: 'lag', class: 'small', x: inner, y: base + 92, 'text-anchor': 'end' }, `lag ${duration(now - marks)}`)));
}

function lag(watermark, now) {
  return watermark === null ? '' : `, watermark lag ${duration(now - watermark)}`;
}

function bar(shares, x, y, width, height) {
  const parts = shares ? [['busy', shares.busy], ['pressed', shares.backPressured], ['idle', shares.idle]] : [['idle', 1]];
  let from = 0;
  return parts.map(([name, share]) => {
    const part = h('rect', { key: name, class: `share ${name}`, x: x + from * width, y, width: Math.max(0, share * width), height });
    from += share;
    return part;
  });
}

/** The subtasks of a vertex. */
export function subtasks({ vertex, rates, now, close }) {
  if (!vertex) return null;
  const heads = ['Subtask', 'Busy', 'Back-pressured', 'Idle', 'Time', 'Watermark', 'Lag'];
  for (const member of vertex.members) {
    const id = short(member.id, 40);
    heads.push([`${id} in`, 'number'], [`${id} out`, 'number'], [`${id} state`, 'number']);
  }
  const rows = vertex.subtasks.map((subtask, index) => {
    const rate = rates?.subtasks[index];
    const shares = rate?.shares;
    const mark = subtask.watermark;
    return h('tr', { key: index, 'data-subtask': subtask.index, class: `pressure-${pressure(shares?.backPressured)}` },
      h('th', { scope: 'row' }, subtask.index),
      h('td', { class: 'number' }, percent(shares?.busy)),
      h('td', { class: 'number pressed' }, percent(shares?.backPressured)),
      h('td', { class: 'number' }, percent(shares?.idle)),
      h('td', null, h('svg', { class: 'mini', width: 100, height: 10, 'aria-hidden': 'true' }, bar(shares, 0, 1, 100, 8))),
      h('td', { title: utc(mark) }, typeof mark === 'number' ? time(mark, now) : '–'),
      h('td', { class: 'number' }, typeof mark === 'number' ? duration(now - mark) : '–'),
      vertex.members.map((_, at) => {
        const work = subtask.members[at] ?? {};
        return [
          h('td', { class: 'number', title: count(work['records-in']) }, perSecond(rate?.members[at]?.recordsIn)),
          h('td', { class: 'number', title: count(work['records-out']) }, perSecond(rate?.members[at]?.recordsOut)),
          h('td', { class: 'number', title: plural(work['state-keys'], 'key') }, work['state-bytes'] ? bytes(work['state-bytes']) : '–'),
        ];
      }));
  });
  return h('div', { key: vertex.id, class: 'inner' },
    h('div', { class: 'head' },
      h('h3', null, 'Subtasks of ', h('span', { class: 'name' }, visible(vertex.name))),
      h('button', { type: 'button', id: 'close-subtasks', on: { click: close } }, 'Close')),
    table({ id: 'subtasks-table', label: 'Subtasks', heads, rows }));
}
