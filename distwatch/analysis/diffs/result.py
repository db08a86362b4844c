"""What the comparison of two runs found: for programs, and in words."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from distwatch.text import counted, listed, printable

#: How many signals text and notebooks show.
_SHOWN = 10

#: "identical": equal bit for bit; "within_tolerance": differences that rounding explains, or
#: that an explicit tolerance allows; "parted": larger ones.
Verdict = Literal["identical", "within_tolerance", "parted"]


@dataclass(frozen=True)
class SignalDifference:
    """How far one signal of two runs lies apart; relative differences, see `diff`.

    ``step`` is the first at which it parts, None where it does not; ``replicas`` are those on
    which it does at that step (empty where rows are merged), ``difference`` is how much, and
    ``explained`` how much rounding explains there. ``first_unequal`` is the first step with
    any difference, ``first_beyond`` the first with one beyond the tolerance. ``largest`` is
    the largest difference of all, at ``largest_step``. ``steps`` were compared.
    """

    signal: str
    step: int | None
    replicas: tuple[int, ...]
    difference: float
    explained: float
    first_unequal: int | None
    first_beyond: int | None
    largest: float
    largest_step: int | None
    steps: int

    @property
    def replica(self) -> int | None:
        """The only replica on which it parts; None where it is several, or rows are merged."""
        return self.replicas[0] if len(self.replicas) == 1 else None

    def where(self, replicas: int) -> str:
        """Where it parts, in words: the signal, and the replicas if not all."""
        if not self.replicas or len(self.replicas) == replicas:
            return self.signal
        word = "replica" if len(self.replicas) == 1 else "replicas"
        return f"{self.signal} of {word} {listed(self.replicas)}"


@dataclass(frozen=True)
class RunDifference:
    """Where two runs part; see `diff`.

    ``differences`` says what differs in the descriptions, ``notes`` what was not compared and
    why: sentences. ``signals`` is the ranking: signals that part first, by step and, within
    a step, in the order in which it computes them; then the others, by the step from which
    on they grow beyond the tolerance, and by their largest difference. ``tolerance`` is the
    relative difference that is allowed without a past, ``formats`` are the number formats in
    which the runs compute, ``steps`` is how many steps both runs have.
    """

    a: str
    b: str
    verdict: Verdict
    differences: tuple[str, ...]
    notes: tuple[str, ...]
    signals: tuple[SignalDifference, ...]
    tolerance: float
    #: Whether the tolerance was given, so that it holds at every step.
    explicit: bool
    formats: tuple[str, str]
    steps: int
    #: How many replicas were compared one by one; 0 where rows are merged over them.
    replicas: int
    #: Whether signals have tolerances of their own, by what was measured.
    measured: bool = False

    @property
    def first(self) -> SignalDifference | None:
        """The signal that parts first; None where none does."""
        return self.signals[0] if self.verdict == "parted" else None

    @property
    def first_unequal(self) -> SignalDifference | None:
        """The signal that is not equal bit for bit first; None where all are."""
        some = [each for each in self.signals if each.first_unequal is not None]
        return min(some, key=lambda each: each.first_unequal or 0, default=None)

    def sentences(self) -> list[str]:
        """The verdict, what differs in the descriptions, and what was not compared."""
        said = [*self.differences, self._verdict(), *self.notes]
        return [printable(each) for each in said]

    def ranking(self) -> list[tuple[str, str, str, str]]:
        """Of the first signals: name, where it parts, how much, and its largest difference."""
        return [
            (
                printable(each.signal),
                _place(each, self.replicas),
                "" if each.step is None else _size(each.difference),
                "0"
                if each.largest_step is None
                else f"{_size(each.largest)}, step {each.largest_step}",
            )
            for each in self.signals[:_SHOWN]
            if each.first_unequal is not None
        ]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain data, for JSON; infinite differences are None."""
        made = asdict(self)
        for each in made["signals"]:
            for name in ("difference", "explained", "largest"):
                each[name] = each[name] if math.isfinite(each[name]) else None
        first = self.first
        return {
            **made,
            "first": None if first is None else made["signals"][0],
            "sentences": self.sentences(),
        }

    def __str__(self) -> str:
        return "\n".join([*self.sentences(), *self._table()])

    def __repr__(self) -> str:
        return f"<distwatch.RunDifference: {printable(self._verdict())}>"

    def _repr_html_(self) -> str:
        """What Jupyter shows."""
        said = "".join(f"<li>{html.escape(each)}</li>" for each in self.sentences())
        rows = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.ranking()
        )
        heads = "".join(f"<th>{each}</th>" for each in HEADINGS)
        table = f"<table><tr>{heads}</tr>{rows}</table>" if rows else ""
        return f"<div><p><b>distwatch.RunDifference</b></p><ul>{said}</ul>{table}</div>"

    def _table(self) -> Iterator[str]:
        rows = self.ranking()
        if rows:
            cells = [HEADINGS, *rows]
            widths = [max(len(row[i]) for row in cells) for i in range(len(HEADINGS))]
            yield ""
            for row in cells:
                padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
                yield "  ".join(padded).rstrip()

    def _verdict(self) -> str:
        """The one sentence that says it."""
        if self.verdict == "identical":
            return (
                f"The runs are identical, bit for bit, in all that both recorded: "
                f"{counted(len(self.signals), 'signal')} over {counted(self.steps, 'step')}."
            )
        if (first := self.first) is not None:
            return (
                f"The runs part at step {first.step}, in {first.where(self.replicas)}: "
                f"{self._by(first)}.{self._equal_before(first)}"
            )
        largest = max(self.signals, key=lambda each: each.largest)
        allowed = (
            f"less than the tolerance of {self.tolerance:.2g}"
            if self.explicit
            else f"what rounding explains ({self._tolerance()}, and growth without a leap)"
        )
        return (
            f"The runs are not identical, but differ only by {allowed}: by up to "
            f"{_size(largest.largest)}, in {largest.signal} at step {largest.largest_step}."
            f"{'' if self.explicit else self._set_in()}"
        )

    def _tolerance(self) -> str:
        if self.measured:
            return "tolerances by signal, as they were measured"
        return f"a tolerance of {self.tolerance:.2g}"

    def _by(self, first: SignalDifference) -> str:
        if not math.isfinite(first.difference):
            return "only one of them has NaN or Inf there, or that number of elements"
        allowed = "the tolerance is" if self.explicit else "rounding explains up to"
        return (
            f"they differ by {_size(first.difference)} times its size, and {allowed} "
            f"{_size(first.explained)}"
        )

    def _equal_before(self, first: SignalDifference) -> str:
        unequal = self.first_unequal
        if unequal is None or unequal.first_unequal != first.step:
            return ""
        return " Up to then they are equal bit for bit." if first.step else ""

    def _set_in(self) -> str:
        """That there was no rounding at all before a step, where that is so."""
        unequal = self.first_unequal
        if unequal is None or not unequal.first_unequal:
            return ""
        return (
            f" Before step {unequal.first_unequal} they are equal bit for bit: rounding set in "
            "there, or a change too small to be told from it."
        )


#: Of `RunDifference.ranking`.
HEADINGS = ("signal", "parts", "by", "largest difference")


def _place(each: SignalDifference, replicas: int) -> str:
    if each.step is None:
        beyond = each.first_beyond
        return "no" if beyond is None else f"gradually, from step {beyond}"
    some = each.replicas and len(each.replicas) < replicas
    on = f", replica{'s' * (len(each.replicas) > 1)} {listed(each.replicas)}" if some else ""
    return f"step {each.step}{on}"


def _size(relative: float) -> str:
    return "inf" if math.isinf(relative) else f"{relative:.2g}"
