"""What differs in the descriptions of two runs, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from distwatch.analysis.diffs.precision import Precision
from distwatch.analysis.matching import Matched
from distwatch.analysis.store_findings import kept_of, unseen
from distwatch.records import Card, Provenance, RunInfo, Table
from distwatch.signals import Signal
from distwatch.store import StoredRun
from distwatch.text import counted, listed, printable

#: How many names a sentence has.
_NAMED = 5

#: What a card says, where its name alone says too little.
_LABELS = {
    "own_loss": "a loss function of your own",
    "further_terms": "further terms or weights of the loss",
    "of_pairs": "a loss that compares each output with all targets",
    "last": "last layer",
}


def differences(
    a: StoredRun, b: StoredRun, matched: Matched, precisions: tuple[Precision, Precision]
) -> Iterator[str]:
    """What differs in two runs' descriptions: a sentence each, the most important first."""
    one, other = a.info, b.info
    yield from _either("strategy", one.strategy, other.strategy)
    if set(one.replicas) != set(other.replicas):
        yield (
            f"Replicas: {_numbers(one)} in A, {_numbers(other)} in B; so rows are compared "
            "merged over replicas."
        )
    yield from _either("number of workers", str(one.workers), str(other.workers))
    if precisions[0] != precisions[1]:
        yield (
            f"Precision: A computes in {precisions[0].name}, B in {precisions[1].name}, as "
            "their values show."
        )
    yield from _cards(one.card, other.card)
    yield from _provenances(one.provenance, other.provenance)
    yield from _versions(one, other)
    for letter, names in zip("AB", matched.only, strict=True):
        if names:
            yield f"{counted(len(names), 'signal')} only in {letter}: {_named(names)}."
    if matched.otherwise_measured:
        yield (
            f"Measured against another reference, or at another place in the step, and so "
            f"not compared: {_named(matched.otherwise_measured)}."
        )
    yield from _tables(a, b, matched.common)


def extents(a: StoredRun, b: StoredRun) -> Iterator[str]:
    """What is missing of one run: sentences."""
    for letter, run in (("A", a), ("B", b)):
        if run.lost:
            yield f"Of {letter}, {counted(run.lost, 'step')} were lost in the recording."
        for finding in (*unseen(run), *kept_of(run)):
            yield f"Of {letter}: {finding.text}"


def _either(what: str, a: str, b: str) -> Iterator[str]:
    if a != b:
        yield f"{what.capitalize()}: {a or 'unknown'} in A, {b or 'unknown'} in B."


def _cards(a: Card | None, b: Card | None) -> Iterator[str]:
    """What differs in what is trained, as far as both say it."""
    if a is None or b is None:
        return
    for name in (each.name for each in fields(Card)):
        values = [getattr(card, name) for card in (a, b)]
        # Whether a loss compares all pairs is known of few, and no difference if not.
        if name != "layers" and not (name == "of_pairs" and None in values):
            label = _LABELS.get(name, name.replace("_", " "))
            yield from _either(label, *map(_said, values))
    one, other = ({layer.path: layer for layer in card.layers} for card in (a, b))
    changed = [path for path in one if path in other and one[path] != other[path]]
    if changed:
        yield f"Layers of the same name that are other ones: {_named(changed)}."
    for letter, more in (("A", one.keys() - other), ("B", other.keys() - one)):
        if more:
            yield f"Layers only in {letter}: {_named(sorted(more))}."


def _provenances(a: Provenance | None, b: Provenance | None) -> Iterator[str]:
    """Other code or another command line, where both say it."""
    if a is None or b is None:
        return
    for what, one, other in (
        ("command", a.command, b.command),
        ("git commit", a.commit, b.commit),
    ):
        if one and other:
            yield from _either(what, printable(one), printable(other))


def _said(value: object) -> str:
    # A learning rate is a float32, which has seven digits.
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _versions(a: RunInfo, b: RunInfo) -> Iterator[str]:
    for name in sorted({*a.versions, *b.versions}):
        versions = (run.versions.get(name, "unknown") for run in (a, b))
        yield from _either(f"version of {name}", *versions)


def _tables(a: StoredRun, b: StoredRun, common: Sequence[Signal]) -> Iterator[str]:
    """Schedules and statistics, of which many signals have the same."""
    one, other = _tables_by_name(a), _tables_by_name(b)
    said: dict[str, list[str]] = {}
    for signal in common:
        for text in _of_tables(one[signal.name], other[signal.name]):
            said.setdefault(text, []).append(signal.name)
    for text, names in said.items():
        yield f"{text} ({_named(names)})."


def _of_tables(a: Table, b: Table) -> Iterator[str]:
    if a.schedule != b.schedule:
        yield f"Schedule: {a.schedule} in A, {b.schedule} in B"
    one, other = ({part.name for part in table.statistic.further} for table in (a, b))
    for letter, more in (("A", one - other), ("B", other - one)):
        if more:
            yield f"Statistics only in {letter}: {listed(sorted(more))}"


def _tables_by_name(run: StoredRun) -> dict[str, Table]:
    return {name: each.table for each in run.tables.values() for name in each.table.names}


def _numbers(info: RunInfo) -> str:
    return listed(info.replicas) if len(info.replicas) <= _NAMED else str(len(info.replicas))


def _named(names: Sequence[str]) -> str:
    shown = list(names[:_NAMED])
    more = len(names) - len(shown)
    return listed([*shown, f"{more} more"] if more else shown)
