"""What the groups of a run say of it: one model for each, by which they are written and read.

A document may come from anybody, so each value must be of its type and within bounds before
it is used; a key that a model does not have is ignored. Lists cannot be longer than the
document that holds them; numbers have bounds here.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    model_validator,
)

from distwatch import records
from distwatch.phases import IN_FILES, checked, in_files
from distwatch.records import (
    TRAIN,
    BrokenRows,
    Card,
    Layer,
    Origin,
    RunInfo,
    Table,
    TensorLayout,
    fitting,
)
from distwatch.signals import Signal
from distwatch.statistics import from_spec
from distwatch.text import shortened

FORMAT = 1

#: The value of ``ended`` in a table that was closed in order.
CLOSED = records.CLOSED

#: The attribute of a group that holds everything distwatch says of it.
ATTRIBUTE = "distwatch"

#: The arrays that say which step a row is of.
COORDINATES = ("step", "epoch", "iteration")

#: Replicas of one run; statistics such as ``checksum`` cannot add up more.
MOST_REPLICAS = 8192

#: No number of steps, workers or starts is larger.
MOST = 2**53

#: Characters of a name.
LONGEST_NAME = 4096

#: Characters of other texts; the rest is cut off. An error message may be long.
LONGEST_TEXT = 65_536

#: Names of groups are names of folders, on any system.
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

#: Names of segments; a folder of another name is none, whatever it begins with.
_SEGMENT = re.compile(rf"worker-[0-9]{{4,16}}-start-([0-9]{{4,16}})(?:-(?:{IN_FILES}))?")


def _text(value: str) -> str:
    return value[:LONGEST_TEXT]


# Not bounds of pydantic's, which refuse half of a surrogate pair.
def _name(value: str) -> str:
    if not 0 < len(value) <= LONGEST_NAME:
        raise ValueError(f"expected a name of 1 to {LONGEST_NAME} characters")
    return value


def _values(value: dict[Any, Any]) -> dict[str, tuple[float, float]]:
    """Name -> how many values, and their mean."""
    for name, pair in value.items():
        numbers = isinstance(pair, list) and len(pair) == 2
        if not (numbers and all(type(x) in (int, float) for x in pair) and pair[0] > 0):
            raise ValueError(f"{shortened(name)}: expected a number of values and their mean")
    return {_name(name): (float(n), float(mean)) for name, (n, mean) in value.items()}


def _moments(value: list[Any]) -> list[tuple[int, float]]:
    for moment in value:
        if not (isinstance(moment, list) and [type(x) for x in moment] == [int, float]):
            raise ValueError("expected steps and seconds")
        if not 0 <= moment[0] <= MOST:
            raise ValueError("expected a number of steps")
    return [(steps, seconds) for steps, seconds in value]


def _group_name(value: str) -> str:
    if not _GROUP.fullmatch(value):
        raise ValueError("this is no name of a group")
    return value


def _texts(value: dict[Any, Any]) -> dict[str, str]:
    # Not dict[str, str]: pydantic would list every wrong entry of a large document.
    if not all(isinstance(text, str) for pair in value.items() for text in pair):
        raise ValueError("expected names and texts")
    return {key[:LONGEST_NAME]: _text(text) for key, text in value.items()}


Count = Annotated[int, Field(ge=0, le=MOST)]
Positive = Annotated[int, Field(ge=1, le=MOST)]
Replica = Annotated[int, Field(ge=0, lt=2**31)]
Text = Annotated[str, AfterValidator(_text)]
Texts = Annotated[dict[Any, Any], AfterValidator(_texts)]
Name = Annotated[str, AfterValidator(_name)]
Values = Annotated[dict[Any, Any], AfterValidator(_values)]
Moments = Annotated[list[Any], Field(max_length=2), AfterValidator(_moments)]
GroupName = Annotated[str, AfterValidator(_group_name)]

#: A list stops at its first wrong item, since a document may hold millions.
_FIRST = Field(fail_fast=True)


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class RootAttributes(_Model):
    """What the root group says of a run, from before its first row.

    ``run`` is a random name, by which workers know that they write to the same run.
    """

    format: int = FORMAT
    run: Text = ""
    created: Text = ""
    strategy: Text = ""
    workers: Positive = 1
    versions: Texts = {}

    @property
    def info(self) -> RunInfo:
        """What is known of a run without rows."""
        return RunInfo((), (), self.strategy, self.versions, workers=self.workers, phase=TRAIN)


class LayerEntry(_Model):
    """A layer of the model that is trained."""

    path: Name
    kind: Text
    activation: Text | None = None
    units: Count | None = None
    initializer: Text | None = None
    trained: bool | None = None
    dropout: Annotated[float | None, Field(ge=0, le=1)] = None


class CardEntry(_Model):
    """What is trained, and how."""

    layers: Annotated[list[LayerEntry], _FIRST] = []
    last: Text | None = None
    loss: Text | None = None
    own_loss: bool = False
    from_logits: bool = False
    optimizer: Text | None = None
    learning_rate: Annotated[float | None, Field(allow_inf_nan=False)] = None
    further_terms: bool = False

    @property
    def card(self) -> Card:
        """The same as other rooms know it."""
        layers = tuple(Layer(**layer.model_dump()) for layer in self.layers)
        return Card(**{**self.model_dump(), "layers": layers})


class SegmentSummary(_Model):
    """What a list of runs says of a segment that was closed: as its tables say it.

    ``steps`` are those of the table that has most; for the others see `TableAttributes`.
    """

    ended: Text
    steps: Count
    last: Values = {}
    reached: Moments = []


class SegmentAttributes(_Model):
    """What a segment's group says; its tables say the rest.

    ``groups`` names the group of each table: another one after the table was thinned out.
    ``summary`` is None while it is written, and in runs from before there was one.
    """

    format: int = FORMAT
    tables: Annotated[list[GroupName], _FIRST]
    # Runs from before tables could be thinned out have no groups.
    groups: Annotated[dict[Any, Any], Field()] = {}
    phase: Annotated[str, AfterValidator(checked)]
    worker: Count
    workers: Positive
    start: Count
    first_step: Count
    first_iteration: Annotated[int, Field(ge=-1, le=MOST)]
    # Runs from before steps were noted do not have this.
    counted: bool = False
    replicas: Annotated[list[Replica], _FIRST]
    strategy: Text
    versions: Texts
    unwatched: Texts
    # Runs from before it was recorded have none.
    card: CardEntry | None = None
    summary: SegmentSummary | None = None

    @model_validator(mode="after")
    def _check(self) -> SegmentAttributes:
        different = len(set(self.replicas)) == len(self.replicas)
        if not 0 < len(self.replicas) <= MOST_REPLICAS or not different:
            raise ValueError(
                f"replicas={shortened(self.replicas)}, expected up to {MOST_REPLICAS} "
                "different numbers"
            )
        for group in self.table_groups.values():
            if not isinstance(group, str) or not _GROUP.fullmatch(group):
                raise ValueError(f"groups: {shortened(group)} is no name of a group")
        if len(set(self.table_groups.values())) < len(self.tables):
            raise ValueError(
                f"tables={shortened(self.tables)}, groups={shortened(self.groups)}: expected "
                "each once"
            )
        return self

    @property
    def table_groups(self) -> dict[str, str]:
        """The name of the group that each table is in."""
        return {name: self.groups.get(name, name) for name in self.tables}

    @property
    def info(self) -> RunInfo:
        """The segment's description, without its tables."""
        return RunInfo(
            tables=(),
            replicas=tuple(self.replicas),
            strategy=self.strategy,
            versions=self.versions,
            unwatched=self.unwatched,
            phase=self.phase,
            worker=self.worker,
            workers=self.workers,
            origin=Origin(self.start, self.first_step, self.first_iteration, self.counted),
            card=None if self.card is None else self.card.card,
        )


class SignalEntry(_Model):
    """A signal of a table."""

    name: Name
    reference: Name
    after: Name | None = None
    recomputed: Count = 0
    # Runs from before this was known have none.
    scaled: Text | None = None
    # Runs from before these were recorded do not have them.
    order: Count | None = None
    copied: bool | None = None
    trained: bool | None = None


class TensorEntry(_Model):
    """How a table keeps raw deltas."""

    # NumPy 1 has no more than 32 dims.
    features: Annotated[list[Count], Field(max_length=30, fail_fast=True)]
    reduce: Literal["mean", "sum"] | None
    dtype: Literal["float32", "float16"]


class BrokenEntry(_Model):
    """In which rows of a replica's batch a signal had NaN or Inf first."""

    signal: Name
    replica: Replica
    step: Count
    rows: Count
    broken: Count
    first: Annotated[list[Count], Field(max_length=records.MOST_ROWS_NAMED, fail_fast=True)]


class TableAttributes(_Model):
    """What a table's group says; replacing it commits ``committed`` steps.

    ``thinned`` steps were committed once and taken out again. ``ended`` is None while the
    table is written (or if its writer was killed), `CLOSED`, or the error that ended it.
    ``last`` are the values at the last step of each signal that is one number, such as the
    loss: how many there were on this worker, and their mean. ``reached`` has, for the first
    rows of this start that came and for the last ones, how many steps the phase had done, and
    the time in seconds since 1970. ``first_broken`` says in which rows of the batch signals had
    NaN or Inf first, where they have a row for each of the batch's.
    """

    format: int = FORMAT
    committed: Count
    lost: Count
    thinned: Count = 0
    ended: Text | None = None
    # Runs from before runs were listed have neither.
    last: Values = {}
    reached: Moments = []
    # Runs from before it was recorded have none.
    first_broken: Annotated[list[BrokenEntry], _FIRST] = []
    window: Positive
    schedule: Text
    signals: Annotated[list[SignalEntry], _FIRST]
    fields: Annotated[list[str], _FIRST]
    statistics: Annotated[list[dict[str, Any]], _FIRST]
    tensor: TensorEntry | None

    @property
    def broken(self) -> tuple[BrokenRows, ...]:
        """The same of ``first_broken`` as other rooms know it."""
        return tuple(
            BrokenRows(**{**each.model_dump(), "first": tuple(each.first)})
            for each in self.first_broken
        )

    def table(self, name: str) -> Table:
        """The table that these attributes describe.

        Raises:
            ValueError: they contradict each other.
        """
        names = [each.get("name") for each in self.statistics]
        if len({str(each) for each in names}) < len(names):
            raise ValueError(f"statistics={shortened(names)}, expected each once")
        kept = self.tensor
        table = Table(
            name=name,
            signals=tuple(Signal(**each.model_dump()) for each in self.signals),
            schedule=self.schedule,
            window=self.window,
            statistic=from_spec(self.statistics),
            tensor=TensorLayout(tuple(kept.features), kept.reduce, kept.dtype)
            if kept
            else None,
        )
        self._check(table)
        return table

    def _check(self, table: Table) -> None:
        if not table.signals or len(set(table.names)) < len(table.names):
            raise ValueError(f"signals={shortened(table.names)}, expected some, each once")
        if self.fields != list(table.fields):
            raise ValueError(f"fields={shortened(self.fields)}, expected {table.fields}")
        most = fitting(table).window
        if table.window > most:
            raise ValueError(
                f"window={table.window}, and of {len(table.signals)} signals at most {most} "
                "steps fit into a ring"
            )


def root_attributes(info: RunInfo, created: str, run: str = "") -> dict[str, Any]:
    """The attributes of a run's root group.

    Args:
        info: what is known of the run before its first row.
        created: when the run was created: ISO 8601, UTC.
        run: a random name of the run.
    """
    root = RootAttributes(
        run=run,
        created=created,
        strategy=info.strategy,
        workers=info.workers,
        versions=info.versions,
    )
    return {ATTRIBUTE: root.model_dump()}


def segment_attributes(
    info: RunInfo, groups: dict[str, str], summary: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The attributes of a segment's group.

    Args:
        info: what the segment holds.
        groups: in which group each table is.
        summary: see `SegmentSummary`; None while it is written.
    """
    segment = SegmentAttributes.model_validate(
        {
            "tables": [table.name for table in info.tables],
            "groups": groups,
            "phase": info.phase,
            "worker": info.worker,
            "workers": info.workers,
            "start": info.origin.start,
            "first_step": info.origin.step,
            "first_iteration": info.origin.iteration,
            "counted": info.origin.counted,
            "replicas": list(info.replicas),
            "strategy": info.strategy,
            "versions": info.versions,
            "unwatched": info.unwatched,
            "card": info.card and _card_document(info.card),
            "summary": summary,
        }
    )
    return {ATTRIBUTE: segment.model_dump()}


def _card_document(card: Card) -> dict[str, Any]:
    document = asdict(card)
    return {**document, "layers": list(document["layers"])}


def table_attributes(
    table: Table,
    committed: int,
    lost: int,
    ended: str | None = None,
    thinned: int = 0,
    **further: Any,
) -> dict[str, Any]:
    """The attributes of a table's group; see `TableAttributes`, also for ``further`` ones."""
    tensor = table.tensor and {
        **asdict(table.tensor),
        "features": list(table.tensor.features),
    }
    attributes = TableAttributes.model_validate(
        {
            "committed": committed,
            "lost": lost,
            "thinned": thinned,
            "ended": ended,
            "window": table.window,
            "schedule": table.schedule,
            "signals": [asdict(signal) for signal in table.signals],
            "fields": list(table.fields),
            "statistics": [statistic.spec() for statistic in table.statistic.further],
            "tensor": tensor,
            **further,
        }
    )
    # By "coordinates" xarray finds the coordinates that are no dims.
    return {ATTRIBUTE: attributes.model_dump(), "coordinates": "epoch iteration"}


def segment_name(info: RunInfo) -> str:
    """The group of one worker's rows of one phase since one start."""
    name = f"worker-{info.worker:04d}-start-{info.origin.start:04d}"
    return name if info.phase == TRAIN else f"{name}-{in_files(info.phase)}"


def start_of(segment: str) -> int | None:
    """The start in a segment's name; None if it is no segment's name."""
    named = _SEGMENT.fullmatch(segment)
    return int(named[1]) if named else None
