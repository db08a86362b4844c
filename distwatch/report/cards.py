"""What was trained, and how, as a report shows it: of one run, and where runs differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from distwatch.analysis.facts import provenance_of
from distwatch.records import Card, Layer
from distwatch.report.reading import ReadRun
from distwatch.text import counted, printable

#: What is shown where a run does not say.
UNKNOWN = "unknown"

#: Layers that are named one by one.
_LAYERS = 12


@dataclass(frozen=True)
class CardRow:
    """One fact of the card: what it is, and what each run says of it."""

    name: str
    texts: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether the runs say different things."""
        return len(set(self.texts)) > 1


def cards(runs: Sequence[ReadRun]) -> list[CardRow]:
    """The cards of runs side by side: a row for each fact that one of them knows."""
    known = [dict(_facts(run)) for run in runs]
    names = dict.fromkeys(name for facts in known for name in facts)
    return [
        CardRow(name, tuple(printable(facts.get(name, UNKNOWN)) for facts in known))
        for name in names
    ]


def _facts(run: ReadRun) -> Iterator[tuple[str, str]]:
    described = run.described
    if card := run.overview.info.card:
        yield from _trained(card)
    yield from provenance_of(described)
    yield "strategy", described["strategy"]
    yield "replicas", str(len(described["replicas"]))
    yield "steps", str(described["committed_steps"])
    for name, version in described["versions"].items():
        yield f"version of {name}", version


def _trained(card: Card) -> Iterator[tuple[str, str]]:
    loss = f"{card.loss} (of the user's own)" if card.own_loss else card.loss
    terms = " with further terms or weights" if card.further_terms else ""
    logits = ", from logits" if card.from_logits else ""
    if loss:
        yield "loss", f"{loss}{logits}{terms}"
    if card.optimizer:
        yield "optimizer", card.optimizer
    if card.learning_rate is not None:
        # It is a float32, which has seven digits.
        yield "learning rate", f"{card.learning_rate:.6g}"
    if card.layers:
        yield "layers", _layers(card.layers)


def _layers(layers: Sequence[Layer]) -> str:
    named = "; ".join(map(_layer, layers[:_LAYERS]))
    more = len(layers) - _LAYERS
    return f"{named}; and {counted(more, 'more layer')}" if more > 0 else named


def _layer(layer: Layer) -> str:
    about = [str(layer.units)] if layer.units is not None else []
    about += [layer.activation] if layer.activation else []
    about += [f"{layer.dropout:g}"] if layer.dropout is not None else []
    about += [f"penalty {layer.penalty:g}"] if layer.penalty is not None else []
    about += ["frozen"] if layer.trained is False else []
    inside = f"({', '.join(about)})" if about else ""
    return f"{layer.path}: {layer.kind}{inside}"
