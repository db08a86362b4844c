"""The data of a page, as JSON that is safe within a script element."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np

from distwatch.analysis.figures.heatmap import edges_of
from distwatch.analysis.figures.style import LONGEST, shortened
from distwatch.analysis.overview import History, Overview
from distwatch.analysis.overview.binning import Binned
from distwatch.report.reading import MOST_REPLICAS, ReadRun
from distwatch.statistics import QUANTITIES


def contents(runs: list[ReadRun]) -> dict[str, Any]:
    """All numbers of the page."""
    return {
        "choices": [
            {
                "name": quantity.name,
                "change": quantity.change,
                "value": quantity.value,
                "signed": quantity.signed,
                "mergedOnly": quantity.merged_only,
            }
            for quantity in QUANTITIES
        ],
        "runs": [_run(run) for run in runs],
        "first": _first(runs[0]),
    }


def _first(run: ReadRun) -> str | None:
    """The signal whose curves are shown first: that of the first finding that has one."""
    names = {signal.name for signal in run.overview.signals}
    found = [each.signal for each in run.findings if each.signal in names]
    return _name(found[0]) if found and found[0] else None


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
    return {
        "replicas": [overview.info.replicas[place] for place in drawn],
        "tables": [_table(history, drawn) for history in overview.histories],
        "signals": [
            {
                "name": _name(signal.name),
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
