"""What the groups of a run say of it: one model for each, by which they are written and read.

A document may come from anybody, so each value must be of its type and within bounds before
it is used (see `value_types`); a key that a model does not have is ignored. Lists cannot be
longer than the document that holds them. What stands in lists and below the groups' own keys is
in `entries`.
"""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from distwatch import records
from distwatch.phases import IN_FILES, in_files
from distwatch.records import (
    TRAIN,
    BrokenRows,
    Card,
    Origin,
    Provenance,
    RunInfo,
    Table,
    TensorLayout,
    fitting,
)
from distwatch.signals import Signal
from distwatch.statistics import from_spec
from distwatch.store.entries import (
    BrokenEntry,
    CardEntry,
    ProvenanceEntry,
    SignalEntry,
    TensorEntry,
)
from distwatch.store.value_types import (
    FIRST,
    MOST,
    Count,
    GroupName,
    Moments,
    PhaseName,
    Positive,
    Replica,
    Text,
    Texts,
    Values,
    is_group_name,
)
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

#: Names of segments; a folder of another name is none, whatever it begins with.
_SEGMENT = re.compile(rf"worker-[0-9]{{4,16}}-start-([0-9]{{4,16}})(?:-(?:{IN_FILES}))?")


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
    tables: Annotated[list[GroupName], FIRST]
    # Runs from before tables could be thinned out have no groups.
    groups: Annotated[dict[Any, Any], Field()] = {}
    phase: PhaseName
    worker: Count
    workers: Positive
    start: Count
    first_step: Count
    first_iteration: Annotated[int, Field(ge=-1, le=MOST)]
    # Runs from before steps were noted do not have this.
    counted: bool = False
    replicas: Annotated[list[Replica], FIRST]
    strategy: Text
    versions: Texts
    unwatched: Texts
    # Runs from before it was recorded have none.
    card: CardEntry | None = None
    provenance: ProvenanceEntry | None = None
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
            if not is_group_name(group):
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
        began = self.provenance
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
            provenance=None if began is None else Provenance(**began.model_dump()),
        )


class TableAttributes(_Model):
    """What a table's group says; replacing it commits ``committed`` steps.

    ``thinned`` steps were committed once and taken out again. ``ended`` is None while the
    table is written (or if its writer was killed), `CLOSED`, or the error that ended it.
    ``last`` are the values at the last step of each signal that is one number, such as the
    loss: how many there were on this worker, and their mean. ``reached`` has, for the first
    commit of this start that had rows, for the last one and some between, how many steps the
    phase had done, and the time in seconds since 1970. ``first_broken`` says in which rows of
    the batch signals had NaN or Inf first, where they have a row for each of the batch's.
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
    first_broken: Annotated[list[BrokenEntry], FIRST] = []
    window: Positive
    schedule: Text
    signals: Annotated[list[SignalEntry], FIRST]
    fields: Annotated[list[str], FIRST]
    statistics: Annotated[list[dict[str, Any]], FIRST]
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
            "provenance": info.provenance and asdict(info.provenance),
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
