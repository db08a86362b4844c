"use strict";
// The page's figures were made by distwatch.analysis.figures. This fills them with what is chosen;
// how they look is decided there, by the traces' `meta` it is known what each one shows.
(() => {
  const page = JSON.parse(document.getElementById("distwatch-data").textContent);
  const LOG_WIDEST = 2;
  const CONFIG = {
    displaylogo: false,
    responsive: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    typesetMath: false,
    scrollZoom: false,
  };

  // ---- numbers -----------------------------------------------------------------------
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

  // One statistic of one signal on one series; -1 is all replicas together.
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
  function centres(table) {
    const first = numbers(table.first, Float64Array);
    const last = numbers(table.last, Float64Array);
    return first.map((step, i) => (step + last[i]) / 2);
  }
  const gap = new Map();
  function gapsOf(table) {
    if (!gap.has(table)) gap.set(table, new Set(table.gaps));
    return gap.get(table);
  }
  function lineOf(history) {
    const gaps = gapsOf(history.table);
    const steps = centres(history.table);
    const x = [];
    const y = [];
    history.mean.forEach((value, i) => {
      if (gaps.has(i)) { x.push(null); y.push(null); }
      x.push(steps[i]);
      y.push(Number.isNaN(value) ? null : value);
    });
    return { x, y };
  }
  function bandOf(history) {
    const x = [];
    const y = [];
    if (history.table.exact) return { x, y };
    const gaps = gapsOf(history.table);
    const steps = centres(history.table);
    let stretch = [];
    const close = () => {
      if (!stretch.length) return;
      const back = [...stretch].reverse();
      const at = [...stretch, ...back, stretch[0]];
      x.push(...at.map((i) => steps[i]), null);
      y.push(...stretch.map((i) => history.high[i]), ...back.map((i) => history.low[i]),
        history.high[stretch[0]], null);
      stretch = [];
    };
    history.low.forEach((value, i) => {
      if (gaps.has(i) || Number.isNaN(value)) close();
      if (!Number.isNaN(value)) stretch.push(i);
    });
    close();
    return { x, y };
  }
  function crossesOf(histories) {
    const all = histories[histories.length - 1];
    const steps = centres(all.table);
    const finite = histories.flatMap((each) => [...each.mean].filter(Number.isFinite));
    const floor = finite.length ? finite.reduce((a, b) => Math.min(a, b)) : 0;
    const x = [];
    const y = [];
    steps.forEach((step, i) => {
      if (!histories.some((each) => each.broken[i])) return;
      x.push(step);
      y.push(Number.isFinite(all.mean[i]) ? all.mean[i] : floor);
    });
    return { x, y };
  }

  // ---- texts: plotly reads a part of HTML, so names are escaped for it ----------------
  const SPECIAL = {
    "&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "%": "&#37;", "{": "&#123;", "}": "&#125;",
  };
  const escaped = (text) => text.replace(/[&<>$%{}]/g, (c) => SPECIAL[c]);
  function short(text, longest) {
    if (text.length <= longest) return text;
    const tail = Math.max(Math.floor(((longest - 1) * 2) / 3), longest - 6);
    return `${text.slice(0, longest - 1 - tail)}…${text.slice(text.length - tail)}`;
  }
  const tick = (text) => escaped(short(text, narrow() ? 20 : 34));

  // ---- drawing -------------------------------------------------------------------------
  const drawn = new Map();
  let printing = false;
  const narrow = () => !printing && window.innerWidth < 640;
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  function draw(id, figure) {
    const place = document.getElementById(id);
    if (!place || !figure) return;
    drawn.set(id, figure);
    const ink = printing ? "#000" : css("--ink");
    const data = figure.data.map((trace) => (trace.meta && trace.meta.ink && trace.meta.part === "line"
      ? { ...trace, line: { ...trace.line, color: ink } } : trace));
    const layout = { ...figure.layout, width: place.clientWidth || 340, autosize: false };
    if (printing) layout.width = Math.min(layout.width, 690);
    layout.font = { ...layout.font, color: ink };
    layout.hoverlabel = { ...layout.hoverlabel, bgcolor: css("--card"), font: { color: css("--ink"), size: 12.5 } };
    const names = layout.meta && layout.meta.names;
    if (names) layout.yaxis = { ...layout.yaxis, ticktext: names.map(tick) };
    if (figure.plainTitle !== undefined) {
      // On a screen the control above says what is chosen; in print there is none.
      layout.title = { ...layout.title, text: printing ? escaped(short(figure.plainTitle, 70)) : "" };
      if (!printing) layout.margin = { ...layout.margin, t: 16 };
    }
    if (narrow()) {
      layout.margin = { ...layout.margin, l: 44, r: 8 };
      layout.dragmode = false;
      layout.font.size = 11;
      if (layout.yaxis.title) layout.yaxis = { ...layout.yaxis, title: { ...layout.yaxis.title, font: { size: 11.5 } } };
    }
    const config = { ...CONFIG, displayModeBar: narrow() ? false : "hover" };
    return Plotly.react(place, data, layout, config);
  }
  const again = () => drawn.forEach((figure, id) => draw(id, figure));

  // ---- choosing --------------------------------------------------------------------------
  const at = (id) => document.getElementById(id);
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

  // ---- the heat map ------------------------------------------------------------------------
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
      if (value === 0) return Number.isNaN(usual) ? 0 : -LOG_WIDEST;
      return Math.min(LOG_WIDEST, Math.max(-LOG_WIDEST, Math.log2(value / usual)));
    });
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
    const rows = shown.map((s) => {
      const history = seriesOf(run, s, statistic, series);
      return onColumns(columns, history.table, history.high);
    });
    const trace = {
      ...figure.data[0],
      x: columns,
      y: shown.map((_, i) => i),
      z: rows.map(relative),
      customdata: rows,
      meta: { ...figure.data[0].meta, statistic, series, names: shown.map((s) => s.name) },
    };
    const row = Math.max(11, Math.min(22, 900 / Math.max(1, shown.length)));
    const layout = {
      ...figure.layout,
      height: 90 + shown.length * row,
      meta: { names: shown.map((s) => s.name) },
      yaxis: { ...figure.layout.yaxis, tickvals: shown.map((_, i) => i), autorange: "reversed" },
    };
    if (narrow()) {
      const bar = trace.colorbar;
      trace.colorbar = { ...bar, orientation: "h", y: 1, yanchor: "bottom", x: 0.5, xanchor: "center",
        title: { text: "" }, len: 1, lenmode: "fraction" };
      layout.height += 40;
      layout.margin = { ...layout.margin, t: 56 };
    }
    draw(`heat-${run}`, { data: [trace], layout });
  }
  function startHeat() {
    if (!at("heat-statistic")) return;
    const names = page.choices.filter((c) => !c.signed && has(c.name));
    fill(at("heat-statistic"), names.map((c) => [c.name, c.change]));
    if (at("heat-series")) {
      fill(at("heat-series"), [[-1, "all together"],
        ...page.runs[0].replicas.map((number, place) => [place, `replica ${number}`])]);
      // Two runs may have other replicas.
      if (page.runs.length > 1) at("heat-series").closest("label").remove();
    }
    const all = () => page.runs.forEach((_, run) => heat(run));
    for (const id of ["heat-statistic", "heat-series"]) if (at(id)) at(id).addEventListener("change", all);
    at("heat-filter").addEventListener("input", all);
    all();
    page.runs.forEach((_, run) => {
      const place = at(`heat-${run}`);
      if (place && place.on) place.on("plotly_click", (event) => follow(event.points[0]));
    });
  }
  function follow(point) {
    const name = point.data.meta.names[point.y];
    const found = curveSignals().findIndex((signal) => signal.name === name);
    if (found < 0 || !at("curve-signal")) return;
    at("curve-filter").value = "";
    listSignals();
    at("curve-signal").value = String(found);
    chooseSignal();
    at("curves-section").scrollIntoView({ behavior: "smooth", block: "start" });
  }

  // ---- curves -----------------------------------------------------------------------------
  function curveSignals() {
    if (page.runs.length === 1) return page.runs[0].signals;
    const second = new Set(page.runs[1].signals.map((signal) => signal.name));
    return page.runs[0].signals.filter((signal) => second.has(signal.name));
  }
  const inRun = (run, name) => page.runs[run].signals.find((signal) => signal.name === name);
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
  function curve() {
    const signal = chosenSignal();
    const figure = page.figures.curves;
    if (!signal || !figure) return;
    const statistic = at("curve-statistic").value;
    const choice = choices.get(statistic);
    const histories = new Map();
    const historyOf = (meta) => {
      const run = meta.run || 0;
      const last = page.runs.length > 1 ? -1 : page.runs[0].replicas.length;
      const series = meta.series === last ? -1 : meta.series;
      if (choice.mergedOnly && series >= 0) return null;
      const key = `${run}/${series}`;
      if (!histories.has(key)) histories.set(key, seriesOf(run, inRun(run, signal.name), statistic, series));
      return histories.get(key);
    };
    const data = figure.data.map((trace) => {
      if (trace.meta.part === "broken") return trace;
      const history = historyOf(trace.meta);
      if (!history) return { ...trace, visible: false };
      const markers = trace.meta.part === "line" && history.table.bins < 60;
      return {
        ...trace,
        ...(trace.meta.part === "line" ? lineOf(history) : bandOf(history)),
        mode: markers ? "lines+markers" : "lines",
      };
    }).map((trace) => {
      if (trace.meta.part !== "broken") return trace;
      const own = [...histories].filter(([key]) => key.startsWith(`${trace.meta.run || 0}/`)).map(([, h]) => h);
      const points = crossesOf(own);
      return { ...trace, ...points, showlegend: points.x.length > 0 };
    });
    const logarithmic = at("curve-log").checked && !choice.signed;
    const yaxis = {
      ...figure.layout.yaxis,
      type: logarithmic ? "log" : "linear",
      title: { ...figure.layout.yaxis.title, text: signal.ofValue ? choice.value : choice.change },
    };
    at("curve-log").disabled = choice.signed;
    draw("curves", { data, layout: { ...figure.layout, yaxis }, plainTitle: signal.name });
  }
  function startCurves() {
    if (!at("curve-signal")) return;
    at("curve-filter").addEventListener("input", () => { listSignals(); chooseSignal(); });
    at("curve-signal").addEventListener("change", chooseSignal);
    at("curve-statistic").addEventListener("change", curve);
    at("curve-log").addEventListener("change", curve);
    listSignals();
    const first = curveSignals().findIndex((signal) => signal.name === page.first);
    if (first >= 0) at("curve-signal").value = String(first);
    chooseSignal();
  }

  // ---- distributions --------------------------------------------------------------------
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
    draw(`ridge-${run}`, { data, layout: { ...figure.layout, xaxis }, plainTitle: found.name });
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

  // ---- start --------------------------------------------------------------------------------
  function startAll() {
    draw("comparison", page.figures.comparison);
    startHeat();
    startCurves();
    for (const [name, figures] of Object.entries(page.figures.whole)) {
      figures.forEach((figure, run) => draw(`${name}-${run}`, figure));
    }
    startRidges();
    document.documentElement.dataset.ready = "yes";
  }
  let waiting = 0;
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    // A phone that scrolls changes its height all the time.
    if (window.innerWidth === width || printing) return;
    width = window.innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      again();
      if (at("heat-statistic")) page.runs.forEach((_, run) => heat(run));
    }, 150);
  });
  const print = (is) => () => { printing = is; again(); };
  window.addEventListener("beforeprint", print(true));
  window.addEventListener("afterprint", print(false));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  startAll();
})();
