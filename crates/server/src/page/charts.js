// The charts: what the checkpoints took, and how many records flow. A table or a number says the same beside them.

import uPlot from './uplot.js';
import { PHASES, phaseTimes, took } from './checkpoints.js';
import { draw, h } from './draw.js';
import { bytes, micros, perSecond, rough, time } from './words.js';

const HEIGHT = 210;
const POWERS_OF_TWO = [...Array(50).keys()].map((power) => 2 ** power);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** A chart in an element. It is made again when its size, its colours or its form change, and else gets new data. */
class Chart {
  constructor(element, options) {
    this.element = element;
    this.options = options;
    this.plot = null;
    this.form = '';
  }

  show(data, form) {
    this.element.hidden = data === null;
    if (data === null) return;
    this.data = data;
    const width = this.element.clientWidth;
    // Not on screen, so it has no size.
    if (width === 0) return;
    const wanted = `${form} ${css('--text')}`;
    if (this.plot && wanted === this.form) {
      if (this.plot.width !== width) this.plot.setSize({ width, height: HEIGHT });
      this.plot.setData(data);
      return;
    }
    this.plot?.destroy();
    this.form = wanted;
    this.plot = new uPlot({ width, height: HEIGHT, legend: { show: false }, ...this.options(width) }, data, this.element);
  }
}

const axis = (more) => ({
  stroke: css('--muted'), grid: { stroke: css('--line'), width: 1 }, ticks: { stroke: css('--line'), width: 1 },
  font: '12px system-ui, sans-serif', ...more,
});

/** Durations of the checkpoints as bars, split by phase, and their bytes as a line. */
export function checkpointsChart(element, legend) {
  let shown = [];
  let hovered = null;
  const names = [...PHASES.map(({ name }) => name), 'Other', 'Failed'];
  const colour = (index) => css(`--phase-${index}`);
  const describe = () => {
    const at = hovered === null ? null : shown[hovered];
    draw(legend,
      names.map((name, index) => h('span', { key: name, class: 'item' }, h('i', { class: `swatch phase-${index}` }), at?.parts[index] > 0 ? `${name} ${micros(at.parts[index])}` : name)),
      h('span', { key: 'bytes', class: 'item' }, h('i', { class: 'swatch bytes' }), at ? `Written ${bytes(at.bytes)}` : 'Written'),
      shown.some((it) => it.isFailed && it.total > highest() * 1.08) && h('span', { key: 'cut', class: 'item' }, 'Failed ones are cut off at the top'),
      at && h('span', { key: 'which', class: 'item' }, h('b', null, `#${at.id}`), ` at ${time(at.at)}`));
  };
  // A checkpoint whose time was over took much longer than one that is complete, which would be too low to see.
  const highest = () => {
    const completed = shown.filter((it) => !it.isFailed).map((it) => it.total);
    return completed.length ? Math.max(...completed) * 2 : Infinity;
  };
  const chart = new Chart(element, () => ({
    cursor: { y: false, points: { show: false }, drag: { x: false, y: false } },
    scales: {
      x: { time: false, range: () => [-0.6, shown.length - 0.4] },
      y: { range: (_, __, max) => [0, Math.max(1, Math.min(max, highest()) * 1.08)] },
      bytes: { auto: true, range: (_, __, max) => [0, Math.max(1, max * 1.08)] },
    },
    series: [
      {},
      // The highest sum is drawn first, and each lower one over it.
      ...names.map((_, index) => names.length - 1 - index).map((index) => ({
        fill: colour(index), stroke: colour(index), width: 0, points: { show: false }, paths: uPlot.paths.bars({ size: [0.75, 36] }),
      })),
      { scale: 'bytes', stroke: css('--bytes'), width: 1.5, points: { show: shown.length < 40, size: 5 } },
    ],
    axes: [
      axis({ size: 34, grid: { show: false }, space: 60, incrs: [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], values: (_, splits) => splits.map((at) => (shown[at] ? `#${shown[at].id}` : '')) }),
      axis({ size: 62, values: (_, splits) => splits.map((us) => (us === 0 ? '0' : micros(us))) }),
      axis({ side: 1, scale: 'bytes', incrs: POWERS_OF_TWO, size: 66, grid: { show: false }, values: (_, splits) => splits.map((size) => (size === 0 ? '0' : bytes(size))) }),
    ],
    hooks: {
      setCursor: [(plot) => {
        const index = plot.cursor.idx ?? null;
        if (index === hovered) return;
        hovered = index;
        describe();
      }],
    },
  }));
  return (view) => {
    shown = [...view.checkpoints.history].reverse().map(split);
    if (hovered !== null && hovered >= shown.length) hovered = null;
    legend.hidden = shown.length === 0;
    if (!shown.length) return chart.show(null);
    element.setAttribute('aria-label', `Durations and bytes of ${shown.length} checkpoints; the table below has the same numbers`);
    describe();
    const sums = names.map((_, index) => shown.map(({ parts }) => parts.slice(0, index + 1).reduce((a, b) => a + b, 0))).reverse();
    return chart.show([shown.map((_, index) => index), ...sums, shown.map((it) => it.bytes)], `${view['rest-id']} ${shown.length < 40}`);
  };
}

/**
 * The parts of a checkpoint's duration, which add up to it: the phases, the rest, and all of it if it failed. Each
 * phase is the longest of any subtask, so they may add up to more; then they are shown in proportion.
 */
function split(checkpoint) {
  const total = Math.max(0, took(checkpoint)) * 1000;
  const times = phaseTimes(checkpoint);
  const it = { id: checkpoint.id, at: checkpoint['triggered-at'], bytes: checkpoint.outcome.bytes ?? null, total, isFailed: times === null };
  if (!times) return { ...it, parts: [...PHASES.map(() => 0), 0, total] };
  const sum = times.reduce((a, b) => a + b, 0);
  // The duration has whole milliseconds.
  const whole = sum > total && sum < total + 1000 ? sum : total;
  const scale = sum > whole ? whole / sum : 1;
  return { ...it, parts: [...times.map((us) => us * scale), Math.max(0, whole - sum), 0] };
}

/** Records per second that sources read and sinks write, as long as this page has watched. */
export function throughputChart(element, legend) {
  let hovered = null;
  let points = [];
  const describe = () => {
    const at = points[hovered ?? points.length - 1];
    draw(legend,
      h('span', { key: 'read', class: 'item' }, h('i', { class: 'swatch read' }), `Read ${perSecond(at?.read)}`),
      h('span', { key: 'written', class: 'item' }, h('i', { class: 'swatch written' }), `Written ${perSecond(at?.written)}`),
      at && h('span', { key: 'when', class: 'item' }, time(at.at, Date.now())));
  };
  const chart = new Chart(element, () => ({
    cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
    scales: {
      x: { time: true, range: (_, min, max) => [Math.min(min, max - 60), max] },
      y: { range: (_, __, max) => [0, Math.max(1, (max ?? 0) * 1.1)] },
    },
    series: [
      {},
      { stroke: css('--read'), width: 1.75, points: { show: false } },
      { stroke: css('--written'), width: 1.75, points: { show: false } },
    ],
    axes: [
      axis({ size: 34, grid: { show: false }, space: 90, values: (_, splits) => splits.map((at) => time(at * 1000, Date.now())) }),
      axis({ size: 62, values: (_, splits) => splits.map((value) => (value === 0 ? '0' : `${rough(value)}/s`)) }),
    ],
    hooks: {
      setCursor: [(plot) => {
        hovered = plot.cursor.idx ?? null;
        describe();
      }],
    },
  }));
  return (restId, history) => {
    points = history;
    if (hovered !== null && hovered >= points.length) hovered = null;
    describe();
    element.setAttribute('aria-label', 'Records read and written per second since this page was opened');
    const data = [points.map(({ at }) => at / 1000), points.map(({ read }) => read), points.map(({ written }) => written)];
    chart.show(points.length ? data : [[Date.now() / 1000], [null], [null]], restId);
  };
}
