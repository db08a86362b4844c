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

// What a line runs through, and what its band reaches from and to. A bin of one step has no band.
function pathsOf(history) {
  const values = smoothed(history, view.window);
  const hasBand = view.window < 2 && !history.table.exact;
  return { values, low: hasBand ? history.low : values, high: hasBand ? history.high : values, hasBand };
}
const within = (place) => !view.range || (place >= view.range[0] && place <= view.range[1]);

// At most so many points of each stretch: where, the mean, the least and the largest of some bins.
function pointsOf(history, run) {
  const places = placesOf(run, centres(history.table));
  const { values, low, high, hasBand } = pathsOf(history);
  const stretches = stretchesOf(history.table, values).map((stretch) => {
    const seen = stretch.filter((i) => within(places[i]));
    const each = Math.ceil(seen.length / SMALL.points) || 1;
    const points = [];
    for (let i = 0; i < seen.length; i += each) {
      const some = seen.slice(i, i + each);
      points.push({
        place: places[some[some.length >> 1]],
        mean: some.reduce((sum, j) => sum + values[j], 0) / some.length,
        low: Math.min(...some.map((j) => low[j])),
        high: Math.max(...some.map((j) => high[j])),
      });
    }
    return points;
  }).filter((points) => points.length);
  return { stretches, hasBand };
}
const joined = (points) => points.map(([a, b]) => `${a.toFixed(1)} ${b.toFixed(1)}`).join("L");

// A line runs through the means where a band has what stands out, else through the least and the
// largest of several steps, so that nothing is lost.
function smallPaths({ stretches, hasBand }, x, y) {
  const line = stretches.map((points) => {
    const through = points.flatMap(({ place, mean, low, high }) => (hasBand || low === high
      ? [[x(place), y(hasBand ? mean : low)]] : [[x(place), y(low)], [x(place), y(high)]]));
    return `M${joined(through)}${through.length === 1 ? "h1" : ""}`;
  }).join("");
  const band = hasBand ? stretches.map((points) => `M${joined([
    ...points.map(({ place, high }) => [x(place), y(high)]),
    ...[...points].reverse().map(({ place, low }) => [x(place), y(low)]),
  ])}Z`).join("") : "";
  return { line, band };
}

function smallChart(signal, statistic) {
  const lines = smallLines(signal, statistic).map((each) => ({ ...each, seen: pointsOf(each.history, each.run) }));
  const choice = choices.get(statistic);
  const all = lines.flatMap(({ seen }) => seen.stretches.flat());
  const low = all.reduce((least, point) => Math.min(least, point.low), Infinity);
  const high = all.reduce((largest, point) => Math.max(largest, point.high), -Infinity);
  const [from, to] = view.range || wholeRange();
  const x = (place) => ((place - from) / (to - from || 1)) * SMALL.width;
  // What differs by rounding alone is flat.
  const span = Math.max(high - low, 1e-3 * Math.max(Math.abs(low), Math.abs(high))) || 1;
  const y = (value) => SMALL.height / 2 - ((value - (low + high) / 2) / span) * (SMALL.height - 8);
  const drawing = svg("svg", { viewBox: `0 0 ${SMALL.width} ${SMALL.height}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const { place } of epochsWithin(view.range, 12)) drawing.append(svg("path", { d: `M${x(place)} 0V${SMALL.height}`, class: "epoch" }));
  for (const each of lines) {
    const colour = each.ink ? "currentColor" : each.line.color;
    const { line, band } = smallPaths(each.seen, x, y);
    if (band) drawing.append(svg("path", { d: band, style: `fill:${colour}`, class: "band" }));
    drawing.append(svg("path", { d: line || "M0 0", style: `stroke:${colour};stroke-width:${each.ink ? 1.6 : 1.1}`, class: "line" }));
  }
  for (const { history, run } of lines) {
    const places = placesOf(run, centres(history.table));
    for (const [first, last] of brokenIn([history])) {
      drawing.append(svg("path", { d: `M${x(places[first]) - 1} ${SMALL.height - 2}H${x(places[last]) + 1}`, class: "broken" }));
    }
  }
  if (view.step !== null) drawing.append(svg("path", { d: `M${x(placeOf(view.run, view.step))} 0V${SMALL.height}`, class: "mark" }));
  const label = signal.ofValue ? choice.value : choice.change;
  const extent = all.length ? `${rounded(low)} to ${rounded(high)}` : "no finite value";
  const made = element("button", "small-chart");
  made.type = "button";
  made.title = signal.name;
  made.append(element("span", "name", signal.name), drawing, element("span", "extent", extent));
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
