"""The data of a page, as JSON that is safe within a script element."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from distwatch.analysis.figures import Compared, edges_of, ranked
from distwatch.analysis.figures.labels import shortened
from distwatch.analysis.figures.style import LONGEST, both_labels
from distwatch.analysis.overview import History, Overview
from distwatch.analysis.overview.binning import Binned
from distwatch.findings import WARNING
from distwatch.report.diagnosis import link_to
from distwatch.report.reading import MOST_REPLICAS, ReadRun
from distwatch.statistics import QUANTITIES, Quantity


def contents(runs: list[ReadRun]) -> dict[str, Any]:
    """All numbers of the page."""
    return {
        "choices": [
            {
                "name": quantity.name,
                "change": quantity.change,
                "value": quantity.value,
                "either": _either(quantity),
                "signed": quantity.signed,
                "mergedOnly": quantity.merged_only,
            }
            for quantity in QUANTITIES
        ],
        "runs": [_run(run) for run in runs],
        "first": _first(runs),
    }


def _either(quantity: Quantity) -> str:
    """What a quantity is called where some signals are changes and others values."""
    if quantity.change == quantity.value:
        return quantity.change
    return f"{quantity.change} or {quantity.value}"


def _first(runs: list[ReadRun]) -> str:
    """The link to the chart that is shown first, or "".

    Of several runs what differs most, of one what is warned of, or else the loss.
    """
    names = [signal.name for signal in runs[0].overview.signals]
    if len(runs) > 1:
        wanted, _ = ranked(Compared([run.overview for run in runs]), "size", 1)
    else:
        warned = [each for each in runs[0].findings if each.severity == WARNING]
        links = (link_to(finding, runs[0], 0, names) for finding in warned)
        if found := next((each for each in links if "signal=" in each), ""):
            return found
        wanted = [name for name in names if name == "loss"]
    return f"#run=0&signal={names.index(wanted[0])}" if wanted else ""


def as_script(value: Any) -> str:
    """JSON that cannot end its script element or start a comment, whatever text is in it."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.translate({ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&"})


def drawn_replicas(overview: Overview) -> list[int]:
    """The positions of the replicas with curves on the page: those furthest from the others."""
    replicas = len(overview.info.replicas)
    if replicas <= MOST_REPLICAS:
        return list(range(replicas))
    offsets = np.hstack([np.zeros((replicas, 1)), *(h.offset for h in overview.histories)])
    furthest = np.nan_to_num(np.abs(offsets)).max(axis=1)
    return sorted(np.argsort(-furthest, kind="stable")[:MOST_REPLICAS].tolist())


def _run(run: ReadRun) -> dict[str, Any]:
    overview = run.overview
    drawn = drawn_replicas(overview)
    labels = dict(
        zip(
            (signal.name for signal in overview.signals),
            both_labels([signal.name for signal in overview.signals]),
            strict=True,
        )
    )
    return {
        "replicas": [overview.info.replicas[place] for place in drawn],
        "epochs": [overview.epochs.step.tolist(), overview.epochs.number.tolist()],
        "times": vars(run.times) if run.times.commits else None,
        "tables": [_table(history, drawn) for history in overview.histories],
        "signals": [
            {
                "name": _name(signal.name),
                "labels": labels[signal.name],
                "ofValue": signal.reference == "none",
                "table": number,
                "place": place,
            }
            for number, history in enumerate(overview.histories)
            for place, signal in enumerate(history.signals)
        ],
        "distributions": [
            {
                "name": _name(each.name),
                "ofValue": each.reference == "none",
                "edges": array(each.edges),
                "density": array(each.density),
                "first": each.first.tolist(),
                "last": each.last.tolist(),
            }
            for each in run.distributions
        ],
    }


def _name(name: str) -> str:
    return shortened(name, LONGEST)


def _table(history: History, drawn: list[int]) -> dict[str, Any]:
    series, bins = [*drawn, -1], history.bins
    return {
        "bins": len(bins),
        "exact": bins.are_steps,
        "first": array(bins.first, "<f8"),
        "last": array(bins.last, "<f8"),
        "edges": array(edges_of(bins), "<f8"),
        "gaps": np.flatnonzero(bins.after_gap).tolist(),
        "series": len(series),
        "broken": packed(history.broken[:, series]),
        "kept": {name: _binned(binned, series) for name, binned in history.kept.items()},
    }


def _binned(binned: Binned, series: list[int]) -> dict[str, Any]:
    chosen = series if binned.mean.shape[1] > 1 else [0]
    parts = {"mean": binned.mean}
    if not binned.bins.are_steps:
        parts |= {"low": binned.low, "high": binned.high}
    kept = {name: array(_in_order(values[:, chosen])) for name, values in parts.items()}
    return {**kept, "series": len(chosen), "infinite": packed(binned.infinite[:, chosen])}


def _in_order(values: Any) -> Any:
    """From (bin, series, signal) to (signal, series, bin), so that a curve is one piece."""
    return np.ascontiguousarray(np.transpose(values, (2, 1, 0)))


def array(values: Any, dtype: str = "<f4") -> str:
    """Numbers as base64."""
    # Numbers beyond float32 become its largest one, not infinity.
    if dtype == "<f4":
        largest = float(np.finfo(np.float32).max)
        values = np.clip(np.asarray(values, np.float64), -largest, largest)
    return base64.b64encode(np.ascontiguousarray(values, dtype).tobytes()).decode("ascii")


def packed(flags: Any) -> str | None:
    """Flags of shape (bin, series, signal) as bits in base64; None where none is set."""
    if not flags.any():
        return None
    bits = np.packbits(_in_order(flags).ravel(), bitorder="little")
    return base64.b64encode(bits.tobytes()).decode("ascii")
