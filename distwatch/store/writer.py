"""Writing a run: blocks go to their tables, within a budget of bytes."""

from __future__ import annotations

import contextlib
import functools
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distwatch.errors import BudgetReachedError, ConfigError, RunExistsError
from distwatch.records import Block, KeptBatch, RunInfo, Table
from distwatch.store import schema
from distwatch.store.claims import Claim
from distwatch.store.digests import Counts, Source, file_with
from distwatch.store.documents import group_document
from distwatch.store.earlier_starts import EarlierStarts
from distwatch.store.kept_batches import encoded, kept_name
from distwatch.store.locations import ROOT_DOCUMENT, Location, location_of
from distwatch.store.reader import StoredRun
from distwatch.store.table_writer import TableWriter
from distwatch.store.tables import StoredTable
from distwatch.store.thinning import Distances, TableCopy, copy_of, halving
from distwatch.text import format_bytes

#: Seconds for which a replaced table stays, for those who are reading it.
GRACE = 60.0

#: From this part of the budget on, old steps are thinned out. A copy of them without every
#: second step, and what is recorded meanwhile, fit into the rest.
THIN_FROM = 0.5

#: What stands out in so many steps that ended so; see `StoreWriter`.
Findings = Callable[[int, str], tuple[str, list[dict[str, Any]]] | None]

#: How many windows of rows a budget must have room for.
_WINDOWS = 4


@dataclass
class Budget:
    """A bound on the bytes of a run.

    Args:
        most: that bound; infinite if nothing bounds the run.
        thins: whether old steps are thinned out before it is reached.
        used: bytes of the run, those that are there already to begin with.
    """

    most: float = math.inf
    thins: bool = field(default=False, kw_only=True)
    used: int = field(default=0, kw_only=True)
    #: Bytes of each file that was written under this budget.
    _sizes: dict[str, int] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def count(self, key: str, nbytes: int) -> None:
        """Count a file that was written, perhaps in the place of another one."""
        if self.most == math.inf:
            return
        with self._lock:
            self.used += nbytes - self._sizes.get(key, 0)
            self._sizes[key] = nbytes

    def adopt(self, key: str, nbytes: int) -> None:
        """Know of a file of an earlier start, which counts already, before it is replaced."""
        with self._lock:
            self._sizes.setdefault(key, nbytes)

    def forget(self, path: str, location: Location) -> None:
        """Count the files below a path, which will be removed, as removed."""
        if self.most == math.inf:
            return
        # Those of earlier starts were never counted one by one.
        nbytes = location.size_below(f"{path}/")
        with self._lock:
            for key in [key for key in self._sizes if key.startswith(f"{path}/")]:
                del self._sizes[key]
            self.used -= nbytes

    def has_room(self, nbytes: int) -> bool:
        """Whether so many more bytes would fit."""
        return self.used + nbytes <= self.most

    def check_suffices(self, info: RunInfo) -> None:
        """Refuse, before the first step, a budget that would be full almost at once.

        Raises:
            ConfigError: there is no room for a few windows of rows.
        """
        least = _WINDOWS * sum(_window_bytes(info, table) for table in info.tables)
        # What earlier starts left is thinned out, too.
        left = self.most - (THIN_FROM * self.used if self.thins else self.used)
        if least > left:
            raise ConfigError(
                f"max_bytes leaves {format_bytes(int(max(0, left)))}, and "
                f"{_WINDOWS} windows of what is watched take up to {format_bytes(least)}; "
                "give it more, watch fewer signals, or lower window."
            )

    @property
    def wants_thinning(self) -> bool:
        """Whether it is time to thin out old steps."""
        return self.thins and self.used > THIN_FROM * self.most


class StoreWriter:
    """Appends blocks to one segment of a run, each to its table.

    Args:
        path: a claimed path.
        info: what the rows hold.
        synced: whether a commit waits until the disk itself has it.
        budget: what bounds the bytes of the run, if anything does.
        claim: on the path: each commit sees that it still holds. None where nobody else
            can write there.
        findings: the version of the rules, and what they find in so many steps (summed over
            tables), as plain values; None where they saw others. Given what ended the
            writing, they are asked when it ends, and kept beside the rows.

    Raises:
        RunExistsError: the segment was written already.
        RunTakenError: the path is not the claim's any more. So do the methods that write.
        OSError: it cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        info: RunInfo,
        *,
        synced: bool = False,
        budget: Budget | None = None,
        claim: Claim | None = None,
        findings: Findings | None = None,
    ) -> None:
        self._findings = findings
        if claim is not None:
            claim.settle()
        self._writing = contextlib.nullcontext if claim is None else claim.writing
        self._location = location_of(path, synced=synced)
        self._budget = budget or Budget()
        self._info = info
        self._segment = schema.segment_name(info)
        #: The group of each table: another one after it was thinned out.
        self._groups = {table.name: table.name for table in info.tables}
        if self._location.size(self._path(ROOT_DOCUMENT)) is not None:
            raise RunExistsError(f"{path} has rows of {self._segment} already.")
        self._write_groups()
        self._tables = {table.name: self._writer_of(table) for table in info.tables}
        self._copies: dict[str, TableCopy] = {}
        self._earlier = EarlierStarts(self._location, info, self._write, self._budget.adopt)
        self._distances = {table.name: Distances() for table in info.tables}
        #: Groups of tables that copies replaced, and the time from which on nobody should
        #: be reading them.
        self._replaced: dict[str, float] = {}

    @property
    def committed(self) -> int:
        """Steps that a reader sees or saw, and will see after a crash, summed over tables."""
        return sum(table.thinned + table.committed for table in self._tables.values())

    @property
    def thinned(self) -> int:
        """Steps that were taken out of the old part, of earlier starts, too: of all tables."""
        return self._earlier.thinned + sum(table.thinned for table in self._tables.values())

    def append(self, block: Block) -> None:
        """Take a block, and commit every whole chunk that it completes.

        Raises:
            StateShapeError: the block's shape is not that of its table.
            BudgetReachedError: it does not fit into the budget.
        """
        self._make_room(block, self._budget)
        self._keep(block.kept)
        self._tables[block.table].append(block)

    def _keep(self, batches: Iterable[KeptBatch]) -> None:
        """Write batches that were kept, or why there is no room for them."""
        for each in batches:
            content = encoded(each)
            if not self._budget.has_room(len(content)):
                why = f"it has {format_bytes(len(content))}, for which max_bytes has no room."
                content = encoded(KeptBatch(each.replica, each.step, left_out=why))
            self._write([(self._path(kept_name(each.replica)), content)])

    def commit_tail(self, *, at_once: bool = True) -> None:
        """Commit the steps that fill no chunk yet (unless that was done just now)."""
        for table in self._tables.values():
            table.commit_tail(at_once=at_once)

    def count_lost(self, steps: dict[str, int]) -> None:
        """Count steps of tables that will never come as lost."""
        for name, lost in steps.items():
            self._tables[name].lost += lost

    def give_up(self, reason: str, lost: dict[str, int]) -> None:
        """Write into the store why it ends here and how many steps of each table are lost."""
        failed: Exception | None = None
        for name, table in self._tables.items():
            try:
                table.give_up(reason, lost.get(name, 0))
            except Exception as error:
                failed = error
        if failed is not None:
            raise failed

    def close(self, ended: str = schema.CLOSED) -> None:
        """Commit everything, and the reason why it ends here if there is one."""
        for path in self._earlier.drop_copies():
            self._replaced[path] = 0.0
        for name in self._copies:
            self._replaced[self._path(copy_of(self._groups[name]))] = 0.0
        self._copies.clear()
        for table in self._tables.values():
            table.close(ended)
        self._remove_replaced(at_once=True)
        self._write_groups(self._summary(ended))
        self._keep_findings(ended)
        self._keep_steps()

    def _keep_findings(self, ended: str) -> None:
        """Keep what stands out beside the rows, where these are all rows of the phase."""
        tables = self._tables.values()
        origin, missing = self._info.origin, self.thinned + sum(t.lost for t in tables)
        others = self._info.workers > 1 or origin.start or origin.step
        if self._findings is None or missing or others:
            return
        counts: dict[str, Counts] = {
            self._path(self._groups[name]): (t.committed, t.lost, t.thinned, ended)
            for name, t in self._tables.items()
        }
        source = Source(self._location, self._info.phase, [self._segment], counts)
        # The run is complete: if this fails, whoever reads it finds the same in its rows.
        with contextlib.suppress(Exception):
            found = self._findings(self.committed, ended)
            self._write_digest(found and file_with(source, findings=found))

    def _keep_steps(self) -> None:
        """Keep how many steps the phase has, where those of several starts or workers overlap.

        So a list of runs need not open their tables. Of workers, the one that ends last does.
        """
        if not self._info.origin.start and self._info.workers < 2:
            return
        with contextlib.suppress(Exception):
            stored = StoredRun(self._location.address, self._info.phase)
            if stored.ended is not None:
                self._write_digest(file_with(stored.source, steps=stored.steps))

    def _write_digest(self, file: tuple[str, bytes] | None) -> None:
        if file and self._budget.has_room(len(file[1])):
            self._write([file])

    def _summary(self, ended: str) -> dict[str, object]:
        """What a list of runs says of this segment, so that it need not read the tables."""
        tables = list(self._tables.values())
        longest = max(tables, key=lambda table: table.reached[-1:])
        return {
            "ended": ended,
            "steps": max(table.committed for table in tables),
            "last": {name: value for table in tables for name, value in table.last.items()},
            "reached": [*longest.reached[:1], *longest.reached[1:][-1:]],
        }

    def _writer_of(self, table: Table, group: str | None = None) -> TableWriter:
        group = group or self._groups[table.name]
        return TableWriter(self._write, self._info, table, self._path(group))

    def _path(self, group: str) -> str:
        return f"{self._segment}/{group}"

    def _write(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Write files, counted against the budget."""

        def counted() -> Iterator[tuple[str, bytes]]:
            for key, content in files:
                yield key, content
                self._budget.count(key, len(content))

        with self._writing():
            self._location.write(counted())

    def _remove_replaced(self, *, at_once: bool = False) -> None:
        """Remove replaced tables that have waited long enough."""
        now = time.monotonic()
        for group in [each for each, due in self._replaced.items() if at_once or due <= now]:
            self._budget.forget(group, self._location)
            with self._writing():
                self._location.delete(group)
            del self._replaced[group]

    # Within the budget

    def _make_room(self, block: Block, budget: Budget) -> None:
        self._remove_replaced()
        if budget.wants_thinning or self._is_copying:
            self._thin_on()
        if not budget.has_room(block.nbytes):
            while self._is_copying:
                self._thin_on()
            self._remove_replaced(at_once=True)
        if not budget.has_room(block.nbytes):
            self.commit_tail()
            raise BudgetReachedError(
                f"{self._location.address} holds {format_bytes(budget.used)}, and its "
                f"max_bytes are {format_bytes(budget.most)}; what is committed stays."
            )

    def _thin_on(self) -> None:
        """Copy a little more, and put complete copies in the tables' place."""
        # Tables that were just replaced still count, and may be all that exceeds the budget.
        if not self._is_copying and not self._replaced:
            for table in self._info.tables:
                self._start_copies(table)
        behind = [self._earlier.advance(), *(each.advance() for each in self._copies.values())]
        if self._is_copying and not any(behind):
            self._put_in_place()

    @property
    def _is_copying(self) -> bool:
        return bool(self._copies) or self._earlier.are_copied

    def _stride(self, table: Table, steps: int) -> int:
        """How far apart the steps of all starts will be, so that half of them stay."""
        earlier, distances = self._earlier.of(table.name), self._distances[table.name]

        def kept(stride: int) -> int:
            own = distances.thinned(steps, stride).kept
            return own + sum(each.kept(stride) for each in earlier)

        return halving(steps + sum(each.steps for each in earlier), kept)

    def _start_copies(self, table: Table) -> None:
        name, source = table.name, self._tables[table.name]
        stride = self._stride(table, source.whole)
        self._earlier.start_copies(name, stride)
        if source.whole >= 2 * table.window:
            reread = functools.partial(
                StoredTable, self._location, self._segment, name, self._info, self._groups[name]
            )
            target = self._writer_of(table, copy_of(self._groups[name]))
            distances = self._distances[name]
            self._copies[name] = TableCopy(source, target, reread, distances, stride)

    def _put_in_place(self) -> None:
        before = dict(self._groups)
        for name, copy in self._copies.items():
            copy.finish()
            self._groups[name] = copy_of(before[name])
        if self._copies:
            self._write_groups()
        for name, copy in self._copies.items():
            self._tables[name], self._distances[name] = copy.target, copy.distances
            self._replaced[self._path(before[name])] = time.monotonic() + GRACE
        self._copies.clear()
        for path in self._earlier.put_in_place():
            self._replaced[path] = time.monotonic() + GRACE

    def _write_groups(self, summary: dict[str, object] | None = None) -> None:
        """Write the segment's document, which names the group of each table."""
        attributes = schema.segment_attributes(self._info, self._groups, summary)
        self._write([(self._path(ROOT_DOCUMENT), group_document(attributes))])


def _window_bytes(info: RunInfo, table: Table) -> int:
    """Bytes of a window of rows, on each replica and merged, before they are compressed."""
    columns = len(table.signals) * len(table.statistic.fields)
    return table.window * 8 * (3 + (len(info.replicas) + 1) * columns)
