"""What all selectors have in common: what each takes, and what a kind is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Any, ClassVar, cast

from pydantic import PlainValidator, WithJsonSchema
from typing_extensions import TypeAliasType

from distwatch.errors import ConfigError
from distwatch.signals.patterns import Pattern, Patterns, written
from distwatch.signals.references import OF_BATCHES, UNBATCHED_FORM, Reference
from distwatch.signals.schedules import Schedule, When
from distwatch.signals.validation import argument_names, validated
from distwatch.statistics import REQUESTABLE, LogHistogram, requested

_STATISTICS_FORM = {
    "type": "array",
    "items": {
        "anyOf": [
            form
            for statistic in REQUESTABLE
            for form in (
                {"const": statistic.name},
                {
                    "type": "object",
                    "properties": {
                        statistic.name: {
                            "type": ["object", "null"],
                            "properties": statistic.parameters,
                            "additionalProperties": False,
                        }
                    },
                    "required": [statistic.name],
                    "additionalProperties": False,
                },
            )
        ]
    },
    "maxItems": len(REQUESTABLE),
}

#: Statistics beyond those that every signal has.
Statistics = TypeAliasType(
    "Statistics",
    Annotated[Sequence[Any], PlainValidator(requested), WithJsonSchema(_STATISTICS_FORM)],
)


def histogram(
    *, accuracy: float = 0.05, smallest: float = 1e-12, largest: float = 1e9
) -> LogHistogram:
    """A further statistic: a histogram whose quantiles have a declared accuracy.

    Args:
        accuracy: the largest relative error of a quantile, from 0.0001 to 1.
        smallest: absolute values below this count as zero.
        largest: absolute values above this are counted together.

    Raises:
        ConfigError: an argument is out of range.
    """
    return LogHistogram(accuracy=accuracy, smallest=smallest, largest=largest)


#: The kinds that a file can name.
KINDS: dict[str, type[Selector]] = {}


def selector_hint(pattern: Pattern) -> str:
    """For what chooses no layer: which selector has a kind of signals of that name, if any."""
    word = re.split(r"[^a-z_]", written(pattern).removeprefix("re:").lower())[0]
    for kind, selector in KINDS.items():
        chosen = {kind, kind.removesuffix("s"), *selector.prefixes}
        if word in chosen and "activation" not in selector.prefixes:
            return f" (strings name layers here; what chooses {word} is distwatch.{kind})"
    return ""


@validated
class Selector:
    """Which signals of one kind to watch, and how.

    A subclass says of its kind: ``kind``, how files and messages name it; ``prefixes``, what
    the names of its signals begin with; ``of_batches``, whether its values have a batch
    dim; ``one_of``, options of which at least one is needed; ``in_files``, whether a file
    can name it.

    Args:
        patterns: globs or regular expressions over paths, or layers of the model, one or a
            list; None for all that is usual.
        reference: what the values are measured against; None for the Watch's own.
        statistics: further ones, such as `histogram`, or their names.
        every: at which steps: a schedule, or a number k for every k-th; None for the
            Watch's own schedule.

    Raises:
        ConfigError: an argument is wrong.
    """

    patterns: Patterns = field(default=None, kw_only=False)
    reference: Reference | None = "none"
    statistics: Statistics = ()
    every: When = None

    kind: ClassVar[str] = "signals"
    prefixes: ClassVar[tuple[str, ...]] = ()
    of_batches: ClassVar[bool] = False
    one_of: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(
        cls,
        kind: str,
        prefixes: tuple[str, ...],
        of_batches: bool = False,
        one_of: tuple[str, ...] = (),
        in_files: bool = True,
    ) -> None:
        cls.kind, cls.prefixes, cls.of_batches, cls.one_of = kind, prefixes, of_batches, one_of
        if in_files:
            KINDS[kind] = cls

    def __post_init__(self) -> None:
        if not self.of_batches and self.reference in OF_BATCHES:
            raise ConfigError(
                f"reference={self.reference!r}: its values have no batch dim; choose "
                "'previous', 'first', 'ema(decay)' or 'none'."
            )
        if self.one_of and not any(getattr(self, option) for option in self.one_of):
            none = ", ".join(f"{option}=False" for option in self.one_of)
            raise ConfigError(f"{none} would watch nothing.")

    @property
    def schedule(self) -> Schedule | None:
        """At which steps to look; None for the Watch's own schedule."""
        return cast("Schedule | None", self.every)

    @property
    def chosen(self) -> tuple[Pattern, ...] | None:
        """The patterns; None where none were given, or the kind takes none."""
        return cast("tuple[Pattern, ...] | None", self.patterns)

    def __str__(self) -> str:
        """Its kind and patterns, such as ``gradients(hidden)``, for people."""
        patterns = ", ".join(map(written, self.chosen or ()))
        return f"{self.kind}({patterns})"

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> Any:
        """The form of its mapping in a file: the patterns stand under the kind itself."""
        form = handler.resolve_ref_schema(handler(core_schema))
        taken = argument_names(cls)
        properties = {name: form["properties"][name] for name in taken}
        patterns = properties.pop("patterns", {"enum": [None, True]})
        if not cls.of_batches and "reference" in properties:
            properties["reference"] = UNBATCHED_FORM
        form["properties"] = {cls.kind: patterns, **properties}
        form["required"] = [cls.kind, *form.get("required", [])]
        form["description"] = (cls.__doc__ or "").partition("\n")[0]
        return form
