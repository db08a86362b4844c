"""One watched training, from its first batch to its closed store.

The session owns what lives as long as one fit: the recorder on the devices, the
writer on its thread and the digest. It also keeps the law that a watcher never
kills a training: until the first step is done its errors raise, afterwards they
disable it.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib.metadata
import platform
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np

from distwatch import replicas
from distwatch.config import WatchConfig
from distwatch.digest import Digest
from distwatch.errors import (
    DistwatchError,
    RowsLostWarning,
    WatcherDisabledWarning,
    WatcherError,
    WriteFailedError,
)
from distwatch.recorder import Drained, Recorder
from distwatch.records import Block, RunInfo
from distwatch.store import BackgroundWriter, StoreWriter, claim, disclaim
from distwatch.store.schema import SEGMENT, root_attributes
from distwatch.store.writer import now
from distwatch.taps import Heard

Method = TypeVar("Method", bound=Callable[..., None])


@dataclass(frozen=True)
class Status:
    """How the watching goes: counts of steps, and the error that ended it, if one did.

    A step that is looked at by several tables counts in each of them.
    """

    steps: int = 0
    committed: int = 0
    lost: int = 0
    error: Exception | None = None


def _never_the_killer(method: Method) -> Method:
    """Turn an error in the watching of a running training into a loud end of it."""

    @functools.wraps(method)
    def guarded(self: Session, *args: Any, **kwargs: Any) -> None:
        if self.error is not None:
            return
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            self.fail(error)

    return cast(Method, guarded)


class Session:
    """One watched training.

    Args:
        config: what to watch and where to write it.
        strategy: the strategy that trains.
        steps_per_execution: how many steps pass between two looks at the rings.
    """

    def __init__(self, config: WatchConfig, strategy: Any, *, steps_per_execution: int) -> None:
        self.error: Exception | None = None
        self.begun = False
        self._config = config
        self._strategy = strategy
        self._steps_per_execution = steps_per_execution
        self._recorder: Recorder | None = None
        self._writer: BackgroundWriter | None = None
        self._digest: Digest | None = None
        self._epoch = 0
        self._done = 0
        #: Steps since each table's last drain.
        self._pending: Counter[str] = Counter()

    def begin(self) -> None:
        """Claim the store before the first step.

        Raises:
            RunExistsError: something is there already.
            NotWritableError: it cannot be written.
        """
        described = RunInfo(
            tables=(),
            replicas=replicas.replica_numbers(self._strategy),
            strategy=replicas.describe(self._strategy),
            versions=versions(),
        )
        claim(
            self._config.store,
            root_attributes(described, now()),
            overwrite=self._config.overwrite,
        )
        self._described = described
        self.begun = True
        atexit.register(self.abandon)

    def make_recorder(self, heard: Heard) -> Recorder:
        """Set up for the signals that the first step was heard to put out."""
        tables = tuple(feed.table for feed in heard.feeds)
        info = replace(self._described, tables=tables, unwatched=heard.unwatched)
        self._digest = Digest(info)
        self._recorder = Recorder(
            self._strategy, heard.feeds, steps_per_execution=self._steps_per_execution
        )
        return self._recorder

    @_never_the_killer
    def begin_epoch(self, epoch: int) -> None:
        """Rows from here on are of this epoch."""
        self._epoch = epoch

    @_never_the_killer
    def after_steps(self, steps: int) -> None:
        """Some steps were done: drain the rings when a window is full."""
        self._done += steps
        if self._recorder is None:
            raise WatcherError(
                "a training step was done that was not heard: the model's "
                "make_train_function does not use its train_step."
            )
        self._recorder.follow_schedules()
        for table in self._recorder.tables:
            self._pending[table.table.name] += steps
        self._drain(full_only=True)

    @_never_the_killer
    def end_epoch(self) -> None:
        """Bring home the epoch's last rows, and commit them if that is due."""
        self._drain()
        if self._writer is not None:
            self._writer.commit_tail()

    @_never_the_killer
    def finish(self) -> None:
        """Bring everything home, commit it and close the store."""
        self._drain()
        self._close()
        self._raise_writer_error()
        self._warn_of_lost()

    def abandon(self) -> None:
        """Training was interrupted: bring home what there is, without collectives."""
        atexit.unregister(self.abandon)
        if self.error is None and self._recorder is not None:
            try:
                self._drain(together=False)
            except Exception as error:
                self._disable(error)
        self._close()
        if self.begun and self._writer is None:
            # What ended the fit matters more than a folder that cannot be removed.
            with contextlib.suppress(OSError):
                disclaim(self._config.store)

    def fail(self, error: Exception) -> None:
        """The watching failed: raise before the first step, else warn and stop watching."""
        if self._done == 0 or self._config.strict:
            self.error = error
            raise error
        if self.error is None:
            self._disable(error)
            self._close()

    @property
    def status(self) -> Status:
        """How it goes."""
        writer, digest = self._writer, self._digest
        lost = (writer.lost if writer else 0) + (digest.lost if digest else 0)
        return Status(
            steps=digest.steps if digest else 0,
            committed=writer.committed if writer else 0,
            lost=lost,
            error=self.error,
        )

    def sentences(self) -> list[str]:
        """What stands out in the run."""
        return self._digest.sentences() if self._digest else []

    def _drain(self, *, full_only: bool = False, together: bool = True) -> None:
        """Bring rows home: of every table, or of those whose window is full."""
        self._raise_writer_error()
        if self._recorder is None or self._digest is None or not self._recorder.started:
            return
        for table in self._recorder.tables:
            # A step that was interrupted is not counted, but may have been recorded.
            wanted = int(together) if not full_only else table.table.window
            if self._pending[table.table.name] < wanted:
                continue
            self._pending[table.table.name] = 0
            drained = table.drain(together=together)
            if drained is not None:
                block = self._block(table.table.name, drained)
                self._digest.observe(block)
                self._open_writer(self._digest.info).submit(block)

    def _block(self, table: str, drained: Drained) -> Block:
        return Block(
            table=table,
            step=drained.step,
            epoch=np.full(len(drained.step), self._epoch, np.int64),
            iteration=drained.iteration,
            rows=drained.rows,
            merged=drained.merged,
            tensors=drained.tensors,
            lost=drained.lost,
        )

    def _open_writer(self, info: RunInfo) -> BackgroundWriter:
        if self._writer is None:
            segment = SEGMENT.format(worker=0, start=0)
            make = functools.partial(StoreWriter, self._config.store, info, segment)
            self._writer = BackgroundWriter(make)
        return self._writer

    def _close(self) -> None:
        atexit.unregister(self.abandon)
        if self._writer is not None:
            self._writer.close()

    def _raise_writer_error(self) -> None:
        error = self._writer.error if self._writer else None
        if error is None:
            return
        if isinstance(error, DistwatchError):
            raise error
        raise WriteFailedError(
            f"{self._config.store} could not be written ({type(error).__name__}: {error}); "
            f"{self.status.committed} steps are committed and stay readable."
        ) from error

    def _disable(self, error: Exception) -> None:
        self.error = error
        warnings.warn(
            f"distwatch stopped watching after {self._done} steps, training goes on: "
            f"{type(error).__name__}: {error}",
            WatcherDisabledWarning,
            stacklevel=2,
        )

    def _warn_of_lost(self) -> None:
        if lost := self.status.lost:
            warnings.warn(
                f"{lost} steps are missing from {self._config.store}: the disk was slower "
                "than training. Watch fewer signals or steps, or write to a faster disk.",
                RowsLostWarning,
                stacklevel=2,
            )


def versions() -> dict[str, str]:
    """The versions that a run was made with."""
    packages = ("distwatch", "tensorflow", "keras", "numpy", "zarr")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {**found, "python": platform.python_version()}
