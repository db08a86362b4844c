"use strict";
// The numbers of the page: what is kept of the runs, and what charts are made of.
const page = JSON.parse(document.getElementById("distwatch-data").textContent);

// ---- decoding: base64 of little-endian numbers, and of bits ------------------------------
const bytesOf = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
const decoded = new Map();
function numbers(text, Kind = Float32Array) {
  if (!decoded.has(text)) decoded.set(text, new Kind(bytesOf(text).buffer));
  return decoded.get(text);
}
function flags(text, start, size) {
  if (text === null) return new Uint8Array(size);
  if (!decoded.has(text)) decoded.set(text, bytesOf(text));
  const bits = decoded.get(text);
  return Uint8Array.from({ length: size }, (_, i) => {
    const place = start + i;
    return (bits[place >> 3] >> (place & 7)) & 1;
  });
}

// ---- one statistic of one signal on one series; -1 is all replicas together ----------------
function seriesOf(run, signal, statistic, series) {
  const table = page.runs[run].tables[signal.table];
  const kept = table.kept[statistic];
  if (!kept) return null;
  const own = kept.series === 1 ? 0 : series < 0 ? kept.series - 1 : series;
  const start = (signal.place * kept.series + own) * table.bins;
  const part = (text) => numbers(text).subarray(start, start + table.bins);
  const mean = part(kept.mean);
  const wide = series < 0 ? table.series - 1 : series;
  const broken = flags(table.broken, (signal.place * table.series + wide) * table.bins, table.bins);
  const infinite = flags(kept.infinite, start, table.bins);
  return {
    table,
    mean,
    low: table.exact ? mean : part(kept.low),
    high: table.exact ? mean : part(kept.high),
    broken: broken.map((flag, i) => flag | infinite[i]),
  };
}

const centresOf = new Map();
function centres(table) {
  if (!centresOf.has(table)) {
    const first = numbers(table.first, Float64Array);
    const last = numbers(table.last, Float64Array);
    centresOf.set(table, first.map((step, i) => (step + last[i]) / 2));
  }
  return centresOf.get(table);
}
const gaps = new Map();
function gapsOf(table) {
  if (!gaps.has(table)) gaps.set(table, new Set(table.gaps));
  return gaps.get(table);
}

// Stretches of bins without a gap in which all values are known: [[first, ...], ...].
function stretchesOf(table, values) {
  const missing = gapsOf(table);
  const found = [];
  let open = null;
  values.forEach((value, i) => {
    if (missing.has(i) || Number.isNaN(value)) open = null;
    if (Number.isNaN(value)) return;
    if (!open) found.push(open = []);
    open.push(i);
  });
  return found;
}

// The running mean over `window` points, centred; at the ends of a stretch over fewer.
function smoothed(history, window) {
  if (window < 2) return history.mean;
  const found = new Float32Array(history.mean.length).fill(NaN);
  const half = window >> 1;
  for (const stretch of stretchesOf(history.table, history.mean)) {
    let [sum, from, to] = [0, 0, 0];
    stretch.forEach((bin, i) => {
      while (to < stretch.length && to <= i + half) { sum += history.mean[stretch[to]]; to += 1; }
      while (from < i - half) { sum -= history.mean[stretch[from]]; from += 1; }
      found[bin] = sum / (to - from);
    });
  }
  return found;
}

// ---- what plotly draws -----------------------------------------------------------------------
function lineOf(history, values = history.mean) {
  const missing = gapsOf(history.table);
  const steps = centres(history.table);
  const x = [];
  const y = [];
  values.forEach((value, i) => {
    if (missing.has(i)) { x.push(null); y.push(null); }
    x.push(steps[i]);
    y.push(Number.isNaN(value) ? null : value);
  });
  return { x, y };
}
function bandOf(history) {
  const x = [];
  const y = [];
  if (history.table.exact) return { x, y };
  const steps = centres(history.table);
  for (const stretch of stretchesOf(history.table, history.low)) {
    const back = [...stretch].reverse();
    x.push(...[...stretch, ...back, stretch[0]].map((i) => steps[i]), null);
    y.push(...stretch.map((i) => history.high[i]), ...back.map((i) => history.low[i]),
      history.high[stretch[0]], null);
  }
  return { x, y };
}
// The first and the last bin of each stretch of bins with NaN or Inf on any of some series.
function brokenIn(histories) {
  const found = [];
  const { bins } = histories[0].table;
  for (let i = 0; i < bins; i += 1) {
    if (!histories.some((each) => each.broken[i])) continue;
    const last = found[found.length - 1];
    if (last && last[1] === i - 1) last[1] = i;
    else found.push([i, i]);
  }
  return found;
}
function crossesOf(histories) {
  const all = histories[histories.length - 1];
  const steps = centres(all.table);
  const finite = histories.flatMap((each) => [...each.mean].filter(Number.isFinite));
  const floor = finite.length ? finite.reduce((a, b) => Math.min(a, b)) : 0;
  const first = brokenIn(histories).map(([i]) => i);
  return { x: first.map((i) => steps[i]), y: first.map((i) => (Number.isFinite(all.mean[i]) ? all.mean[i] : floor)) };
}

// ---- epochs: the first step of each, where all runs have the same ------------------------------
const epochs = (() => {
  const [steps, named] = page.runs[0].epochs;
  const alike = page.runs.every(({ epochs: [own] }) => own.every((step, i) => i >= steps.length || step === steps[i]));
  return alike && steps.length > 1 ? steps.map((step, i) => ({ step, name: String(named[i]) })) : [];
})();
// Those within a range of the axis, at most so many, evenly. Over the time, runs begin them apart.
function epochsWithin(range, most) {
  if (view.axis === "time" && page.runs.length > 1) return [];
  const placed = epochs.map((epoch) => ({ ...epoch, place: placeOf(0, epoch.step) }));
  const inside = placed.filter(({ place }) => !range || (place >= range[0] && place <= range[1]));
  const each = Math.ceil(inside.length / most) || 1;
  return inside.filter((_, i) => i % each === 0);
}
