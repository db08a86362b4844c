// Drawing with plotly. The figures were made by distwatch.analysis.figures, which decides how they
// look; by their traces' `meta` it is known what each one shows. What all charts share is `view`.
const CONFIG = {
  displaylogo: false,
  responsive: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  typesetMath: false,
  scrollZoom: false,
};
const BROKEN = "#D55E00";
const GRID = "rgba(128,140,152,0.45)";
const MOST_MARKS = 60;
const MOST_TICKS = 10;

// The axis ("step", "epoch" or "time"), the range on it (null: all), how many points a line is the
// mean of, and what the open finding marks: a step of a run, and a replica.
const view = { axis: "step", range: null, window: 1, step: null, run: 0, replica: null };

const at = (id) => document.getElementById(id);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
let printing = false;
const narrow = () => !printing && window.innerWidth < 640;

// Plotly reads a part of HTML, so names are escaped for it.
const SPECIAL = {
  "&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "%": "&#37;", "{": "&#123;", "}": "&#125;",
};
const escaped = (text) => text.replace(/[&<>$%{}]/g, (c) => SPECIAL[c]);
const labelOf = ([wide, small]) => escaped(narrow() ? small : wide);
const rounded = (value) => (Number.isFinite(value) ? String(Number(value.toPrecision(4))) : "none");

const onSteps = (figure) => figure.layout.xaxis.title && ["step", "epoch"].includes(figure.layout.xaxis.title.text);
const upright = (place, line) => ({ type: "line", x0: place, x1: place, yref: "paper", y0: 0, y1: 1, line, layer: "below" });

// What every chart over the steps has: the range, epochs, and the marked step.
function overSteps(figure, layout) {
  const marks = epochs.length <= MOST_MARKS || view.axis === "epoch" ? epochsWithin(view.range, MOST_MARKS) : [];
  const isMap = figure.data[0] && figure.data[0].type === "heatmap";
  const shapes = [
    ...(layout.shapes || []),
    ...(isMap ? [] : marks.map(({ place }) => upright(place, { color: GRID, width: 1, dash: "dot" }))),
  ];
  const annotations = [...(layout.annotations || [])];
  if (view.step !== null) {
    const place = placeOf(view.run, view.step);
    shapes.push({ ...upright(place, { color: BROKEN, width: 1.6, dash: "dash" }), layer: "above" });
    annotations.push({ x: place, xref: "x", y: 1, yref: "paper", yanchor: "bottom", showarrow: false,
      text: `step ${view.step}`, font: { color: css("--warn"), size: 12 } });
  }
  const ticks = epochsWithin(view.range, MOST_TICKS);
  const named = view.axis === "epoch" && ticks.length
    ? { tickvals: ticks.map(({ place }) => place), ticktext: ticks.map(({ name }) => name) }
    : {};
  const title = { ...layout.xaxis.title, text: axisTitle() };
  const range = view.range ? { range: [...view.range], autorange: false } : {};
  // Dragging selects steps; what is left to see of the values follows from them.
  return { ...layout, shapes, annotations, xaxis: { ...layout.xaxis, title, ...named, ...range },
    yaxis: { ...layout.yaxis, fixedrange: true } };
}

// A trace over the time says so; what was drawn by Python is moved there.
function overAxis(figure, trace) {
  if (view.axis !== "time" || !onSteps(figure)) return {};
  const hovertemplate = (trace.hovertemplate || "").replace(/step %\{x\}/g, `%{x:.4g} ${duration.short}`);
  return { hovertemplate, ...(figure.run === undefined ? {} : { x: placesOf(figure.run, plainly(trace.x)) }) };
}
// Numbers of a figure, which plotly may have written as base64.
const KINDS = { f8: Float64Array, f4: Float32Array, i4: Int32Array, i2: Int16Array, i1: Int8Array, u4: Uint32Array, u2: Uint16Array, u1: Uint8Array };
const plainly = (values) => (values && values.bdata !== undefined ? numbers(values.bdata, KINDS[values.dtype]) : values || []);

const drawn = new Map();
function draw(id, figure) {
  const place = at(id);
  if (!place || !figure) return;
  const isNew = !drawn.has(id);
  drawn.set(id, figure);
  const ink = printing ? "#000" : css("--ink");
  const data = figure.data.map((trace) => ({ ...trace, ...overAxis(figure, trace),
    ...(trace.meta && trace.meta.ink && trace.meta.part === "line" ? { line: { ...trace.line, color: ink } } : {}) }));
  let layout = { ...figure.layout, width: place.clientWidth || 340, autosize: false };
  if (printing) layout.width = Math.min(layout.width, 690);
  layout.font = { ...layout.font, color: ink };
  layout.hoverlabel = { ...layout.hoverlabel, bgcolor: css("--card"), font: { color: css("--ink"), size: 12.5 } };
  const labels = layout.meta && layout.meta.labels;
  if (labels) layout.yaxis = { ...layout.yaxis, ticktext: labels.map(labelOf) };
  if (figure.plainTitle !== undefined) {
    // On a screen the control above says what is chosen; in print there is none.
    layout.title = { ...layout.title, text: printing ? escaped(figure.plainTitle) : "" };
    if (!printing) layout.margin = { ...layout.margin, t: view.step === null ? 16 : 34 };
  }
  if (onSteps(figure)) layout = overSteps(figure, layout);
  if (narrow()) {
    layout.margin = { ...layout.margin, l: 44, r: 8 };
    layout.dragmode = false;
    layout.font.size = 11;
    if (layout.yaxis.title) layout.yaxis = { ...layout.yaxis, title: { ...layout.yaxis.title, font: { size: 11.5 } } };
  }
  place.setAttribute("role", "group");
  if (figure.said) place.setAttribute("aria-label", figure.said);
  Plotly.react(place, data, layout, { ...CONFIG, displayModeBar: narrow() ? false : "hover" });
  if (isNew && onSteps(figure)) place.on("plotly_relayout", zoomed);
}
function zoomed(event) {
  if (event["xaxis.autorange"]) look({ range: null });
  else if (event["xaxis.range[0]"] !== undefined) look({ range: [event["xaxis.range[0]"], event["xaxis.range[1]"]].map(Number) });
  else if (event["xaxis.range"]) look({ range: event["xaxis.range"].map(Number) });
}

// From the smallest to the largest value that lines and bands have within the range.
function extentOf(traces, logarithmic) {
  let [low, high] = [Infinity, -Infinity];
  for (const { x, y, visible } of traces) {
    if (visible === false) continue;
    y.forEach((value, i) => {
      if (value === null || x[i] < view.range[0] || x[i] > view.range[1] || (logarithmic && value <= 0)) return;
      low = Math.min(low, value);
      high = Math.max(high, value);
    });
  }
  if (!(low <= high)) return {};
  if (logarithmic) [low, high] = [Math.log10(low), Math.log10(high)];
  const edge = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
  return { range: [low - edge, high + edge], autorange: false };
}
