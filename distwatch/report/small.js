// Small charts: one a signal, its replicas (or the runs) over each other. Each is a button that
// opens the signal's curves. They are drawn as SVG: a few hundred of plotly's would be slow.
const SMALL = { width: 240, height: 72, most: 24, points: 160 };
let everySmall = false;

const svg = (name, attributes) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
};
function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

// The lines of a small chart, as the large one has them: run, series and style.
function smallLines(signal, statistic) {
  const figure = page.figures.curves;
  const { mergedOnly } = choices.get(statistic);
  return figure.data
    .filter(({ meta }) => meta.part === "line")
    .map(({ meta, line }) => ({ run: meta.run || 0, series: seriesAt(meta), line, ink: meta.ink }))
    .filter(({ series }) => series < 0 || !mergedOnly)
    .map((each) => {
      const own = inRun(each.run, signal.name);
      return { ...each, history: own && seriesOf(each.run, own, statistic, each.series) };
    })
    .filter(({ history }) => history);
}

// Of each bin its least and its largest value; of a smoothed line the same twice.
function endsOf(history) {
  if (view.window < 2) return [history.low, history.high];
  const values = smoothed(history, view.window);
  return [values, values];
}
const within = (step) => !view.range || (step >= view.range[0] && step <= view.range[1]);

// A line through at most so many points; of more bins it runs through the least and the largest
// of several, so that nothing that stands out is lost.
function smallPath({ history }, x, y) {
  const steps = centres(history.table);
  const [low, high] = endsOf(history);
  const line = (points) => `M${points.map(([a, b]) => `${a.toFixed(1)} ${y(b).toFixed(1)}`).join("L")}${points.length === 1 ? "h1" : ""}`;
  return stretchesOf(history.table, low).map((stretch) => {
    const seen = stretch.filter((i) => within(steps[i]));
    const each = Math.ceil(seen.length / SMALL.points) || 1;
    const points = [];
    for (let i = 0; i < seen.length; i += each) {
      const some = seen.slice(i, i + each);
      const where = x(steps[some[some.length >> 1]]);
      const ends = [Math.min(...some.map((j) => low[j])), Math.max(...some.map((j) => high[j]))];
      for (const value of new Set(ends)) points.push([where, value]);
    }
    return points;
  }).filter((points) => points.length).map(line).join("");
}

function smallChart(signal, statistic) {
  const lines = smallLines(signal, statistic);
  const choice = choices.get(statistic);
  const all = lines.flatMap(({ history }) => {
    const steps = centres(history.table);
    return endsOf(history).flatMap((values) => [...values].filter((value, i) => Number.isFinite(value) && within(steps[i])));
  });
  const [low, high] = all.reduce(([a, b], value) => [Math.min(a, value), Math.max(b, value)], [Infinity, -Infinity]);
  const [from, to] = view.range || wholeRange();
  const x = (step) => ((step - from) / (to - from || 1)) * SMALL.width;
  // What differs by rounding alone is flat.
  const span = Math.max(high - low, 1e-3 * Math.max(Math.abs(low), Math.abs(high))) || 1;
  const y = (value) => SMALL.height / 2 - ((value - (low + high) / 2) / span) * (SMALL.height - 8);
  const drawing = svg("svg", { viewBox: `0 0 ${SMALL.width} ${SMALL.height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const { step } of epochsWithin(view.range, 12)) drawing.append(svg("path", { d: `M${x(step)} 0V${SMALL.height}`, class: "epoch" }));
  for (const each of lines) {
    const style = `stroke:${each.ink ? "currentColor" : each.line.color};stroke-width:${each.ink ? 1.6 : 1.1}`;
    drawing.append(svg("path", { d: smallPath(each, x, y) || "M0 0", style, class: "line" }));
  }
  for (const { history } of lines) {
    const steps = centres(history.table);
    for (const [first, last] of brokenIn([history])) {
      drawing.append(svg("path", { d: `M${x(steps[first]) - 1} ${SMALL.height - 2}H${x(steps[last]) + 1}`, class: "broken" }));
    }
  }
  if (view.step !== null) drawing.append(svg("path", { d: `M${x(view.step)} 0V${SMALL.height}`, class: "mark" }));
  const label = signal.ofValue ? choice.value : choice.change;
  const extent = all.length ? `${rounded(low)} to ${rounded(high)}` : "no finite value";
  const made = element("button", "small-chart");
  made.type = "button";
  made.title = signal.name;
  made.append(element("span", "name", signal.labels[0]), drawing, element("span", "extent", extent));
  made.setAttribute("aria-label", `${signal.name}: ${label}, ${extent}. Show its curves.`);
  made.addEventListener("click", () => { openCurves(page.runs[0].signals.indexOf(signal)); });
  return made;
}

function smallCharts() {
  const place = at("small");
  if (!place || !page.figures.curves) return;
  const statistic = at("heat-statistic").value;
  const matches = matching(at("heat-filter").value);
  const found = curveSignals().filter((signal) => matches(signal.name) && smallLines(signal, statistic).length);
  const shown = everySmall || printing ? found : found.slice(0, SMALL.most);
  place.replaceChildren(...shown.map((signal) => {
    const item = element("li", "");
    item.append(smallChart(signal, statistic));
    return item;
  }));
  const more = at("small-more");
  more.hidden = found.length <= SMALL.most || everySmall;
  more.textContent = `Show all ${found.length}`;
}
