"""Compare the rows of a fuzzed training with the oracle."""

from __future__ import annotations

import numpy as np
import oracle
from expected_signals import AGAIN, AGAIN_HALF, Expected

from distwatch.store import StoredRun

#: Relative to the size of what was added up.
SUMMED = 2e-6


def compare(config, trained):
    """How many rows were compared, and the faults."""
    rows, faults = 0, []
    for phase in ["train", "test"] if config["validation"] else ["train"]:
        if phase == "test" and not _looks_at_validation(config):
            continue
        expected = Expected(config, trained, phase == "train")
        run = StoredRun(trained.path, phase)
        names = [name for table in run.tables.values() for name in table.table.names]
        faults += [f"{phase}: {each} is not there" for each in _missing(expected, names)]
        for table in run.tables.values():
            compared, wrong = TableComparison(expected, table).faults()
            rows += compared
            faults += [f"{phase}: {each}" for each in wrong]
    return rows, faults


def _looks_at_validation(config):
    """Weights and gradients are of the training only."""
    return {"activations", "inputs", "loss", "tensors"} & {
        k for s in config["signals"] for k in s
    }


def _missing(expected, names):
    """Signals that have to be there and are not."""
    due = []
    for kind in (kind for each in expected.config["signals"] for kind in each):
        if kind == "inputs":
            due.append("input")
        if kind == "loss":
            due.append("loss")
        if kind in ("weights", "updates") and expected.training:
            trainable = {v.path for v in expected.recorded.model.trainable_weights}
            due += [f"{kind[:-1]}/{path}" for path in expected.trained.weights
                    if path in trainable or kind == "weights"]  # fmt: skip
        # Raw deltas need features of a fixed size.
        fixed = expected.config["data"]["kind"] != "sequences"
        if kind == "activations" or (kind == "tensors" and fixed):
            due += [f"{kind[:-1]}/{name}" for name in _activations(expected, kind)]
    return [name for name in due if name not in names]


def _activations(expected, kind):
    (chosen,) = (each[kind] for each in expected.config["signals"] if kind in each)
    if not chosen.get("named"):
        return [*expected.recorded.default, "output"]
    return [n for n in expected.recorded.activations if f"{n}_act" not in
            expected.recorded.activations]  # fmt: skip


class TableComparison:
    """One table of a store, compared with what was expected of its signals."""

    def __init__(self, expected, table):
        self.expected, self.table = expected, table
        self.steps = table.read("step").tolist()
        self.wrong = []

    def faults(self):
        """How many rows were compared, and what is wrong."""
        rows, merged = self.table.read("rows"), self.table.read("merged")
        compared = 0
        if self.table.lost:
            self.wrong.append(
                f"{self.table.lost} steps of {self.table.table.names[0]} are lost"
            )
        for place, signal in enumerate(self.table.table.signals):
            known = self.expected.of(signal.name)
            if known is None:
                continue
            each = SignalComparison(self, signal, place, *known)
            if self._steps_are(each.due, signal.name):
                each.compare(rows[:, :, place], merged[:, place])
                compared += rows.shape[0] * rows.shape[1]
        return compared, self.wrong

    def _steps_are(self, due, name):
        if self.steps == due:
            return True
        self.wrong.append(f"{name} has steps {self.steps}, expected {due}")
        return False


class SignalComparison:
    """One signal: its deltas, and how exactly they are known."""

    def __init__(self, table, signal, place, values, error):
        self.table, self.signal, self.place, self.values = table, signal, place, values
        config = table.expected.config
        self.kind = _KINDS[signal.name.partition("/")[0]]
        (chosen,) = (each[self.kind] for each in config["signals"] if self.kind in each)
        self.chosen = chosen
        self.reference = chosen.get("reference", config["reference"])
        schedule = chosen.get("every", config["schedule"])
        self.due = [s for s in range(len(values[0])) if oracle.is_due(schedule, s)]
        self.deltas = [oracle.deltas(self.reference, each) for each in values]
        self.error = max(
            error,
            AGAIN if self.reference[:3] in ("ema", "bat") else 0,
            (AGAIN_HALF if table.expected.half else AGAIN) if signal.recomputed else 0,
        )

    def compare(self, rows, merged):
        if self.reference != self.signal.reference:
            self._say(0, f"reference {self.signal.reference}", self.reference)
        for place, step in enumerate(self.due):
            if self._is_undefined(step):
                continue
            deltas = [each[step] for each in self.deltas]
            signals = [each[step] for each in self.values]
            # A reference may be as old as the training.
            self._size = _largest(x for each in self.values for x in each[: step + 1])
            for replica, delta in enumerate(deltas):
                self._row(f"step {step} replica {replica}", rows[place, replica],
                          [delta], [signals[replica]])  # fmt: skip
            self._row(f"step {step} merged", merged[place], deltas, signals)
        if self.signal.name.startswith("tensor/"):
            self._raw()
        if "histogram" in self.chosen and not self.error:
            self._histograms()
        if self.kind == "inputs":
            self._checksums(rows)

    def _is_undefined(self, step):
        """Whether a NaN may come out otherwise where a signal is computed again.

        TensorFlow's fused kernels make a NaN 0 in a ReLU, and the plain one does not.
        """
        given = [x for each in self.table.expected.of("input")[0] for x in each[: step + 1]]
        return bool(self.signal.recomputed) and not all(np.isfinite(x).all() for x in given)

    def _say(self, where, got, want):
        self.table.wrong.append(
            f"{self.signal.name} ({self.reference}) {where}: {got}, not {want}"
        )

    def _row(self, where, row, deltas, signals):
        got = dict(zip(self.table.table.table.fields, row, strict=True))
        flat = _joined(deltas)
        want = oracle.moments(flat) | oracle.special_values(signals)
        if "units" in got:
            want |= oracle.units(signals)
        allowed = self._allowed(flat, want)
        for name, value in want.items():
            with np.errstate(all="ignore"):
                near = got[name] == value or abs(got[name] - value) <= allowed.get(name, 0.0)
            if not near:
                self._say(f"{where} {name}", got[name], value)

    def _allowed(self, flat, want):
        """How far each field may be from NumPy's."""
        number, error = want["n"], self.error * self._size
        finite = np.abs(flat[np.isfinite(flat)])
        largest, sum_ = finite.max(initial=0.0), want["l1"]
        allowed = {
            "mean": error + SUMMED * (sum_ / number if number else 0),
            "m2": number * ((error + SUMMED * largest) ** 2)
            + 2 * (error + SUMMED * largest) * np.sqrt(number * want["m2"]),
            "l1": number * error + SUMMED * sum_,
            "l2sq": number * error**2 + 2 * error * sum_ + SUMMED * want["l2sq"],
        }
        if self.error:
            # Zeros and units may be so by rounding alone.
            allowed |= {"min": error, "max": error, "zeros": number}
            allowed |= {"zero_units": np.inf, "constant_units": np.inf}
        return allowed

    def _histograms(self):
        rows = self.table.table.read("histogram")[:, :, self.place]
        merged = self.table.table.read("histogram_merged")[:, self.place]
        for place, step in enumerate(self.due):
            each = [
                oracle.histogram(_joined([x[step]]), self.chosen["histogram"])
                for x in self.deltas
            ]
            if not np.array_equal(rows[place], each):
                self._say(f"step {step} histogram", _counted(rows[place]), _counted(each))
            if not np.array_equal(merged[place], np.sum(each, axis=0)):
                self._say(f"step {step} merged histogram", "other counts", "the sum")

    def _checksums(self, rows):
        """Equal where the batches are equal, and only there."""
        column = self.table.table.table.fields.index("checksum")
        seen = {}
        for place, step in enumerate(self.due):
            for replica, each in enumerate(self.values):
                key, got = each[step].tobytes(), rows[place, replica, column]
                if seen.setdefault(key, got) != got:
                    self._say(f"step {step} checksum", got, seen[key])
        if len(set(seen.values())) != len(seen):
            self._say("checksums", "equal ones", "one for each batch")

    def _raw(self):
        tensors = self.table.table.tensors()
        for place, step in enumerate(self.due):
            if self._is_undefined(step):
                continue
            each = [x[step] for x in self.deltas]
            sizes = [None if x is None else np.abs(x).astype(np.float64) for x in each]
            want = each
            if how := self.chosen["reduce"]:
                want, sizes = [_reduced(each, how)], [_reduced(sizes, how)]
            for replica, delta in enumerate(want):
                rows = 0 if delta is None else len(delta)
                got = tensors.values[place, replica]
                if tensors.valid[place, replica] != rows or not np.isnan(got[rows:]).all():
                    self._say(f"step {step} rows", tensors.valid[place, replica], rows)
                elif rows:
                    self._close(step, got[:rows], delta, sizes[replica])

    def _close(self, step, got, want, sizes):
        """Compare raw deltas; each was rounded to its dtype before they were reduced."""
        with np.errstate(all="ignore"):
            want = want.astype(self.chosen["dtype"]).astype(np.float64)
        coarse = {"float16": 2e-3, "float32": 3e-7}[self.chosen["dtype"]]
        inexact = self.error * self._size + coarse * np.nan_to_num(sizes, posinf=0, neginf=0)
        with np.errstate(all="ignore"):
            near = (
                (np.abs(got - want) <= inexact)
                | (got == want)
                | (np.isnan(got) & np.isnan(want))
            )
        if got.shape != want.shape or not near.all():
            self._say(f"step {step} raw", got.ravel()[:3], want.ravel()[:3])


_KINDS = {
    "activation": "activations", "activation_input": "activations", "input": "inputs",
    "loss": "loss", "weight": "weights", "update": "updates", "gradient_local": "gradients",
    "gradient": "gradients", "gradient_clipped": "gradients", "tensor": "tensors",
    "probe": "probe",
}  # fmt: skip


def _joined(deltas):
    parts = [np.ravel(x).astype(np.float64) for x in deltas if x is not None]
    return np.concatenate(parts) if parts else np.zeros(0)


def _largest(signals):
    parts = np.abs(_joined(signals))
    return float(parts[np.isfinite(parts)].max(initial=0.0))


def _counted(histograms):
    return [{int(b): int(h[b]) for b in np.flatnonzero(h)} for h in np.asarray(histograms)]


def _reduced(deltas, how):
    """Row by row over those replicas that have the row."""
    some = [x for x in deltas if x is not None]
    if not some:
        return None
    rows = max(map(len, some))
    function = np.mean if how == "mean" else np.sum
    with np.errstate(all="ignore"):
        return np.array([
            function([x[i].astype(np.float64) for x in some if len(x) > i], axis=0)
            for i in range(rows)
        ]).reshape(rows, *some[0].shape[1:])  # fmt: skip
