"""What a rule is: a pure function that finds what stands out, with its name and its source.

The same rules run while a training goes on and afterwards. Those that look at a training as a
whole take its `Course`, the others what was `Recorded`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from distwatch.findings.course import Course
from distwatch.findings.findings import WARNING, Finding
from distwatch.findings.tables import Recorded

#: From when on a rule is asked while a training goes on: from the first rows on, where more
#: rows take nothing back; once every example was seen, where it judges the data; or only of
#: the whole, where it compares the end of a training with its beginning.
AT_ONCE, AFTER_EPOCH, AT_END = "at once", "after an epoch", "at the end"


@dataclass(frozen=True)
class Rule:
    """A rule: calling it gives its findings.

    Args:
        name: such as "NotLearning"; `Finding.rule` has it.
        find: takes what was `Recorded`, or the `Course` if ``of_course``.
        source: where its thresholds come from.
        thresholds: name -> value.
        of_course: whether it looks at a training as a whole.
        asked: from when on, while a training goes on: "at once", "after an epoch" or "at the
            end". Afterwards all rules are asked.
    """

    name: str
    find: Callable[[Any], Iterable[Finding]]
    source: str = ""
    thresholds: Mapping[str, float] = field(default_factory=dict)
    of_course: bool = False
    asked: str = AT_END

    @property
    def says(self) -> str:
        """What it looks for, in a sentence."""
        return (self.find.__doc__ or "").partition("\n")[0]

    def __call__(self, looked_at: Any) -> Iterable[Finding]:
        return self.find(looked_at)

    def apply(self, run: Recorded, course: Course) -> Iterator[Finding]:
        """Its findings, each with the rule's name; only warnings name faults."""
        for each in self.find(course if self.of_course else run):
            faults = each.faults if each.severity == WARNING else ()
            yield replace(each, rule=self.name, faults=faults)


def rule(
    name: str, source: str = "", *, asked: str = AT_END, **thresholds: float
) -> Callable[[Any], Rule]:
    """Make a function of what was `Recorded` a rule."""
    return lambda find: Rule(name, find, source, thresholds, asked=asked)


def course_rule(
    name: str, source: str = "", *, asked: str = AT_END, **thresholds: float
) -> Callable[[Any], Rule]:
    """Make a function of a training's `Course` a rule."""
    return lambda find: Rule(name, find, source, thresholds, of_course=True, asked=asked)


def as_rule(given: Rule | Callable[[Recorded], Iterable[Finding]]) -> Rule:
    """A plain function as a rule of its name, which is asked from the first rows on."""
    if isinstance(given, Rule):
        return given
    return Rule(getattr(given, "__name__", type(given).__name__), given, asked=AT_ONCE)
