// The axis of all charts over the steps. Rows have no times, commits have: between two of them
// steps are spread evenly, and `timesSaid` says so.
const DURATIONS = [[7200, 3600, "hours", "h"], [120, 60, "minutes", "min"], [0, 1, "seconds", "s"]];
const timed = page.runs.every((run) => run.times);
const duration = (() => {
  const longest = timed ? Math.max(...page.runs.map(({ times }) => times.seconds[times.seconds.length - 1])) : 0;
  const [, seconds, name, short] = DURATIONS.find(([least]) => longest >= least);
  return { seconds, name, short };
})();
// From one rising list to the other; beyond their ends it is that of the end.
function between(value, from, to) {
  const last = from.length - 1;
  if (value <= from[0]) return to[0];
  if (value >= from[last]) return to[last];
  // Of equal ones, as where a later start goes on, the first: `value` is not above it.
  let next = 1;
  while (from[next] < value) next += 1;
  const part = (value - from[next - 1]) / (from[next] - from[next - 1]);
  return to[next - 1] + part * (to[next] - to[next - 1]);
}
// A step is done when one more step than its number is.
function timeOf(run, step) {
  const { steps, seconds } = page.runs[run].times;
  return between(step + 1, steps, seconds) / duration.seconds;
}
function stepAt(run, time) {
  const { steps, seconds } = page.runs[run].times;
  return between(time * duration.seconds, seconds, steps) - 1;
}

// Where a step of a run is on the axis.
const placeOf = (run, step) => (view.axis === "time" && step !== null ? timeOf(run, step) : step);
const placesOf = (run, steps) => (view.axis === "time" ? Array.from(steps, (step) => (Number.isNaN(step) ? null : placeOf(run, step))) : steps);
const axisTitle = () => ({ step: "step", epoch: "epoch", time: `time since the training began, ${duration.name}` }[view.axis]);

// The same range of steps (of the first run) on another axis.
function rangeOn(axis) {
  if (!view.range || (view.axis === "time") === (axis === "time")) return view.range;
  return view.range.map((place) => (axis === "time" ? timeOf(0, place) : stepAt(0, place)));
}
function timesSaid() {
  if (view.axis !== "time") return "";
  const counts = page.runs.map(({ times }, i) => (page.runs.length > 1 ? `${"ABCDEFGH"[i]} has ${times.commits}` : `${times.commits} are known`));
  return `Steps have no times of their own, their commits have (${counts.join(", ")}): between two commits, steps are spread evenly. A commit may come some seconds after its steps.`;
}
// The axes that can be chosen.
const axes = () => [["step", "steps"], ...(epochs.length ? [["epoch", "epochs"]] : []), ...(timed ? [["time", "time"]] : [])];
