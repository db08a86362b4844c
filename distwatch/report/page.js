// What is chosen, and what follows from it.
const FURTHEST = 6;
const BEYOND = 0.02;
const LEAST = Math.log2(1.25);
const WINDOWS = [1, 3, 5, 9, 17, 33, 65, 129];

function fill(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => {
    const option = document.createElement("option");
    option.value = value;
    option.textContent = text;
    return option;
  }));
  if (options.some(([value]) => String(value) === before)) select.value = before;
}
const choices = new Map(page.choices.map((choice) => [choice.name, choice]));
const has = (statistic) => page.runs.some((run) => run.tables.some((table) => table.kept[statistic]));
const matching = (text) => {
  const wanted = text.trim().toLowerCase();
  return (name) => name.toLowerCase().includes(wanted);
};
const inRun = (run, name) => page.runs[run].signals.find((signal) => signal.name === name);
function curveSignals() {
  const others = page.runs.slice(1).map((run) => new Set(run.signals.map((signal) => signal.name)));
  return page.runs[0].signals.filter((signal) => others.every((names) => names.has(signal.name)));
}
// Which series a trace shows; -1 is all replicas together.
function seriesAt(meta) {
  const last = page.runs.length > 1 ? -1 : page.runs[0].replicas.length;
  return meta.series === last ? -1 : meta.series;
}
function wholeRange() {
  const ends = page.runs.flatMap((run, i) => run.tables.flatMap((table) => {
    const steps = centres(table);
    return [placeOf(i, steps[0]), placeOf(i, steps[steps.length - 1])];
  }));
  return [Math.min(...ends), Math.max(...ends)];
}

// ---- the map of all signals --------------------------------------------------------------------
function median(values) {
  const sorted = Float32Array.from(values).filter((v) => v > 0).sort();
  if (!sorted.length) return NaN;
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
function relative(values) {
  const usual = median(values);
  return Array.from(values, (value) => {
    if (Number.isNaN(value)) return null;
    if (value === 0) return Number.isNaN(usual) ? 0 : -FURTHEST;
    return Math.min(FURTHEST, Math.max(-FURTHEST, Math.log2(value / usual)));
  });
}
// Between which values colours are spread: as `scale_of` in distwatch.analysis.figures.heatmap.
function scaleOf(rows) {
  const known = Float64Array.from(rows.flat().filter((value) => value !== null)).sort();
  const quantile = (q) => {
    const place = q * (known.length - 1);
    const below = Math.floor(place);
    return known[below] + (place - below) * (known[Math.min(below + 1, known.length - 1)] - known[below]);
  };
  const low = Math.min(known.length ? quantile(BEYOND) : 0, -LEAST);
  const high = Math.max(known.length ? quantile(1 - BEYOND) : 0, LEAST);
  const inside = (marks) => marks.filter((mark) => mark >= low && mark <= high);
  let marks = inside([-6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6]);
  const each = Math.ceil(marks.length / 5);
  marks = marks.filter((mark) => mark % each === 0);
  if (marks.length < 2) marks = inside([-LEAST, 0, LEAST]);
  return { low, high, marks, texts: marks.map((mark) => `${Number((2 ** mark).toPrecision(3))}×`) };
}
// From a table's own bins to the columns of the table that has most.
function onColumns(columns, table, values) {
  const edges = numbers(table.edges, Float64Array);
  if (edges.length === columns.length && edges.every((edge, i) => edge === columns[i])) return values;
  let place = 0;
  return Float32Array.from({ length: columns.length - 1 }, (_, i) => {
    const middle = (columns[i] + columns[i + 1]) / 2;
    while (place < table.bins - 1 && edges[place + 1] <= middle) place += 1;
    return values[place];
  });
}
function widened(row) {
  const by = Math.floor(row.length / 300);
  return Array.from(row, (_, i) => (row.slice(Math.max(0, i - by), i + by + 1).some(Boolean) ? 1 : null));
}
function heat(run) {
  const figure = page.figures.heat[run];
  if (!figure) return;
  const statistic = at("heat-statistic").value;
  const chosen = at("heat-series");
  const series = chosen ? Number(chosen.value) : -1;
  const matches = matching(at("heat-filter").value);
  const { tables, signals } = page.runs[run];
  const shown = signals.filter((s) => tables[s.table].kept[statistic] && matches(s.name));
  const used = [...new Set(shown.map((s) => tables[s.table]))];
  const finest = used.reduce((a, b) => (b.bins > a.bins ? b : a), used[0]);
  const columns = finest ? numbers(finest.edges, Float64Array) : new Float64Array(0);
  const histories = shown.map((s) => seriesOf(run, s, statistic, series));
  const rows = histories.map(({ table, high }) => onColumns(columns, table, high));
  const broken = histories.map((each) => widened(onColumns(columns, each.table, each.broken)));
  const z = rows.map(relative);
  const scale = scaleOf(z);
  const names = shown.map((s) => s.name);
  const [values, covering] = figure.data;
  const along = { x: placesOf(run, columns), y: shown.map((_, i) => i) };
  const data = [
    { ...values, ...along, z, customdata: rows, zmin: scale.low, zmax: scale.high,
      meta: { ...values.meta, statistic, series, names },
      colorbar: { ...values.colorbar, tickvals: scale.marks, ticktext: scale.texts, len: narrow() ? 200 : 260 } },
    { ...covering, ...along, z: broken, meta: { ...covering.meta, names } },
  ];
  const row = Math.max(4, Math.min(22, 900 / Math.max(1, shown.length)));
  const named = shown.map((s, i) => [s, i]).filter((_, i) => i % Math.ceil(11 / row) === 0);
  const layout = {
    ...figure.layout,
    height: 116 + Math.round(shown.length * row),
    meta: { labels: named.map(([s]) => s.labels) },
    yaxis: { ...figure.layout.yaxis, tickvals: named.map(([, i]) => i), autorange: "reversed" },
  };
  draw(`heat-${run}`, { data, layout, said: `Map of ${shown.length} signals over the steps: ${choices.get(statistic).either}.` });
}
function everySignal() {
  smallCharts();
  page.runs.forEach((_, run) => heat(run));
}
function startSignals() {
  if (!at("heat-statistic")) return;
  const names = page.choices.filter((c) => !c.signed && has(c.name));
  const kinds = new Set(page.runs.flatMap((run) => run.signals.map((signal) => signal.ofValue)));
  const label = (c) => (kinds.size > 1 ? c.either : kinds.has(true) ? c.value : c.change);
  fill(at("heat-statistic"), names.map((c) => [c.name, label(c)]));
  if (at("heat-series")) {
    fill(at("heat-series"), [[-1, "all together"],
      ...page.runs[0].replicas.map((number, place) => [place, `replica ${number}`])]);
    // Other runs may have other replicas.
    if (page.runs.length > 1) at("heat-series").closest("label").remove();
  }
  for (const id of ["heat-statistic", "heat-series"]) if (at(id)) at(id).addEventListener("change", everySignal);
  at("heat-filter").addEventListener("input", everySignal);
  at("small-more").addEventListener("click", () => { everySmall = true; smallCharts(); });
  everySignal();
  page.runs.forEach((_, run) => {
    const place = at(`heat-${run}`);
    if (place && place.on) {
      place.on("plotly_click", ({ points: [point] }) => {
        openCurves(page.runs[0].signals.findIndex((signal) => signal.name === point.data.meta.names[point.y]));
      });
    }
  });
}

// ---- curves of one signal --------------------------------------------------------------------
const chosenSignal = () => curveSignals()[Number(at("curve-signal").value)];
function listSignals() {
  const matches = matching(at("curve-filter").value);
  const listed = curveSignals().map((signal, i) => [i, signal.name]).filter(([, name]) => matches(name));
  fill(at("curve-signal"), listed);
}
function chooseSignal() {
  const signal = chosenSignal();
  if (!signal) return;
  const everywhere = (name) => page.runs.every((run, i) => {
    const own = inRun(i, signal.name);
    return own && run.tables[own.table].kept[name];
  });
  const label = (choice) => (signal.ofValue ? choice.value : choice.change);
  fill(at("curve-statistic"), page.choices.filter((c) => everywhere(c.name)).map((c) => [c.name, label(c)]));
  curve();
}
// Traces of the chosen signal, and the histories they show, by run.
function curveTraces(signal, choice) {
  const histories = new Map();
  const historyOf = (meta) => {
    const run = meta.run || 0;
    const series = seriesAt(meta);
    if (choice.mergedOnly && series >= 0) return null;
    const key = `${run}/${series}`;
    if (!histories.has(key)) histories.set(key, seriesOf(run, inRun(run, signal.name), choice.name, series));
    return histories.get(key);
  };
  const traces = page.figures.curves.data.map((trace) => {
    if (trace.meta.part === "broken") return trace;
    const history = historyOf(trace.meta);
    if (!history) return { ...trace, visible: false };
    if (trace.meta.part === "band") {
      // Of a smoothed line, the steps themselves are drawn behind it.
      const behind = history.table.exact && view.window > 1;
      return { ...trace, ...(behind ? { ...lineOf(history), fill: "none" } : bandOf(history)) };
    }
    const open = view.replica !== null && page.runs.length === 1 && page.runs[0].replicas[seriesAt(trace.meta)] === view.replica;
    return {
      ...trace,
      ...lineOf(history, smoothed(history, view.window)),
      line: open ? { ...trace.line, width: 3 } : trace.line,
      mode: history.table.bins < 60 ? "lines+markers" : "lines",
    };
  });
  const ofRun = (run) => [...histories].filter(([key]) => key.startsWith(`${run}/`)).map(([, history]) => history);
  return { traces, ofRun };
}
function curve() {
  const signal = chosenSignal();
  const figure = page.figures.curves;
  if (!signal || !figure) return;
  const choice = choices.get(at("curve-statistic").value);
  const { traces, ofRun } = curveTraces(signal, choice);
  const data = traces.map((trace) => {
    const run = trace.meta.run || 0;
    if (trace.meta.part !== "broken") return { ...trace, x: placesOf(run, trace.x) };
    const points = crossesOf(ofRun(run));
    return { ...trace, ...points, x: placesOf(run, points.x), showlegend: points.x.length > 0 };
  });
  const shapes = page.runs.flatMap((_, run) => {
    const histories = ofRun(run);
    const steps = centres(histories[0].table);
    return brokenIn(histories).filter(([first, last]) => last > first).map(([first, last]) => ({
      type: "rect", x0: placeOf(run, steps[first]), x1: placeOf(run, steps[last]), yref: "paper", y0: 0, y1: 1,
      fillcolor: BROKEN, opacity: 0.14, line: { width: 0 }, layer: "below",
    }));
  });
  const logarithmic = at("curve-log").checked && !choice.signed;
  at("curve-log").disabled = choice.signed;
  const label = signal.ofValue ? choice.value : choice.change;
  const yaxis = {
    ...figure.layout.yaxis,
    type: logarithmic ? "log" : "linear",
    title: { ...figure.layout.yaxis.title, text: label },
    ...(view.range ? extentOf(data, logarithmic) : {}),
  };
  const said = sentenceOf(signal, label, ofRun);
  at("curve-said").textContent = said;
  draw("curves", { data, layout: { ...figure.layout, yaxis, shapes }, plainTitle: signal.name, said });
}
// What the chart shows, in words.
function sentenceOf(signal, label, ofRun) {
  const parts = page.runs.map((_, run) => {
    const all = ofRun(run)[ofRun(run).length - 1];
    const finite = [...all.mean].filter(Number.isFinite);
    const name = page.runs.length > 1 ? `run ${"ABCDEFGH"[run]}` : "all replicas together";
    if (!finite.length) return `${name}: no finite value`;
    const [low, high] = finite.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
    return `${name}: ${rounded(low)} to ${rounded(high)}, at the end ${rounded(finite[finite.length - 1])}`;
  });
  const open = view.step === null ? "" : ` The dashed line is step ${view.step}.`;
  return `${signal.name}, ${label}; ${parts.join("; ")}.${open}`;
}
function startCurves() {
  if (!at("curve-signal")) return;
  at("curve-filter").addEventListener("input", () => { listSignals(); chooseSignal(); });
  at("curve-signal").addEventListener("change", chooseSignal);
  at("curve-statistic").addEventListener("change", curve);
  at("curve-log").addEventListener("change", curve);
  listSignals();
  follow(page.first);
  chooseSignal();
}

// ---- findings are links: their fragment says what is open ------------------------------------------
// Choose what a fragment such as "#run=0&signal=3&step=180" says; true if it does.
function follow(fragment) {
  const asked = new URLSearchParams(fragment.slice(1));
  const number = (name) => (asked.has(name) ? Number(asked.get(name)) : null);
  const own = page.runs[number("run") || 0]?.signals[number("signal") ?? -1];
  const found = own ? curveSignals().findIndex((signal) => signal.name === own.name) : -1;
  if (found < 0 || !at("curve-signal")) return false;
  at("curve-filter").value = "";
  listSignals();
  at("curve-signal").value = String(found);
  chooseSignal();
  const wanted = asked.get("statistic") || "size";
  if ([...at("curve-statistic").options].some((option) => option.value === wanted)) at("curve-statistic").value = wanted;
  look({ run: number("run") || 0, step: number("step"), replica: number("replica") });
  return true;
}
// Open a signal's curves; from the reader's own choice the address names it, too.
function openCurves(signal) {
  const fragment = `#run=0&signal=${signal}`;
  if (signal < 0) return;
  if (window.location.hash === fragment) opened();
  else window.location.hash = fragment;
}
function opened() {
  if (!follow(window.location.hash)) return;
  at("curves-section").scrollIntoView({ behavior: "smooth", block: "start" });
  at("curves-heading").focus({ preventScroll: true });
}

// ---- the view that all charts share ----------------------------------------------------------------
function look(change) {
  Object.assign(view, change);
  if (at("view-whole")) at("view-whole").hidden = view.range === null;
  if (at("view-said")) at("view-said").textContent = timesSaid();
  again();
}
function again() {
  if (at("curve-signal") && drawn.has("curves")) curve();
  if (at("heat-statistic") && drawn.has("heat-0")) everySignal();
  drawn.forEach((figure, id) => { if (id !== "curves" && !id.startsWith("heat-")) draw(id, figure); });
}
function startView() {
  if (!at("view-axis")) return;
  fill(at("view-axis"), axes());
  if (axes().length < 2) at("view-axis").closest("label").remove();
  else at("view-axis").addEventListener("change", () => look({ range: rangeOn(at("view-axis").value), axis: at("view-axis").value }));
  at("view-window").addEventListener("input", () => {
    const points = WINDOWS[Number(at("view-window").value)];
    at("view-window-said").textContent = points === 1 ? "off" : `over ${points} points`;
    look({ window: points });
  });
  at("view-whole").addEventListener("click", () => look({ range: null }));
}

// ---- distributions ---------------------------------------------------------------------------------
const OVERLAP = 2.4;
function ridge(run) {
  const figure = page.figures.ridge[run];
  const select = at(`ridge-signal-${run}`);
  if (!figure || !select) return;
  const found = page.runs[run].distributions[Number(select.value)];
  const edges = numbers(found.edges);
  const slices = edges.length - 1;
  const x = Array.from({ length: slices }, (_, i) => (edges[i] + edges[i + 1]) / 2);
  const density = numbers(found.density);
  const rows = found.first.map((_, part) => density.subarray(part * slices, (part + 1) * slices));
  const third = Math.max(...rows.map((row) => Array.from(row).sort((a, b) => b - a)[2]));
  const scale = third > 0 ? third : Math.max(...density) || 1;
  const height = (value) => (Math.min(value / scale, 1.15) * OVERLAP) / 1.15;
  const traces = figure.data.filter((trace) => trace.meta.row === undefined || trace.meta.row < rows.length);
  const data = traces.map((trace) => (trace.meta.part === "ridge"
    ? { ...trace, x, y: Array.from(rows[trace.meta.row], (v) => trace.meta.row - height(v)) }
    : { ...trace, x: [x[0], x[slices - 1]] }));
  const xaxis = {
    ...figure.layout.xaxis,
    title: { ...figure.layout.xaxis.title, text: found.ofValue ? "value" : "change" },
  };
  draw(`ridge-${run}`, { data, layout: { ...figure.layout, xaxis }, plainTitle: found.name,
    said: `Distributions of ${found.name} from the start of the run to its end.` });
}
function startRidges() {
  page.runs.forEach((run, i) => {
    const select = at(`ridge-signal-${i}`);
    if (!select) return;
    fill(select, run.distributions.map((each, j) => [j, each.name]));
    if (!run.distributions.length) select.closest(".controls").remove();
    select.addEventListener("change", () => ridge(i));
    ridge(i);
  });
}

// ---- start -------------------------------------------------------------------------------------------
function startAll() {
  const titled = (id) => at(id)?.closest("section").querySelector("h2").textContent;
  draw("comparison", page.figures.comparison && { ...page.figures.comparison, said: titled("comparison") });
  startView();
  startCurves();
  startSignals();
  for (const [name, figures] of Object.entries(page.figures.whole)) {
    figures.forEach((figure, run) => draw(`${name}-${run}`, figure && { ...figure, run, said: titled(`${name}-${run}`) }));
  }
  startRidges();
  if (window.location.hash) opened();
  document.documentElement.dataset.ready = "yes";
}
let waiting = 0;
let width = window.innerWidth;
window.addEventListener("resize", () => {
  // A phone that scrolls changes its height all the time.
  if (window.innerWidth === width || printing) return;
  width = window.innerWidth;
  clearTimeout(waiting);
  waiting = setTimeout(again, 150);
});
const printed = (is) => () => { printing = is; again(); };
window.addEventListener("beforeprint", printed(true));
window.addEventListener("afterprint", printed(false));
window.addEventListener("hashchange", opened);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
startAll();
