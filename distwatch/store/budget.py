"""How many bytes a run may take: counted as they are written, by all who write to it."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import WrapperStore

from distwatch.errors import ConfigError
from distwatch.records import RunInfo, Table

#: From this part of the budget on, what is old is thinned out. Its copy without every second
#: step, and what is recorded meanwhile, fit into the rest.
THIN_FROM = 0.5

#: What a budget has to hold at least.
_WINDOWS = 4


class Budget:
    """A bound on the bytes of a run.

    Args:
        most: that bound.
        thins: whether the old part is thinned out before it is reached.
        used: bytes that are there already.
    """

    def __init__(self, most: int, *, thins: bool, used: int = 0) -> None:
        self.most = most
        self.thins = thins
        self._used = used
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes of the run."""
        return self._used

    def add(self, nbytes: int) -> None:
        """Count bytes that were written, or, below zero, removed."""
        with self._lock:
            self._used += nbytes

    def has_room(self, nbytes: int) -> bool:
        """Whether so many more would fit."""
        return self._used + nbytes <= self.most

    def check_suffices(self, info: RunInfo) -> None:
        """Refuse, before the first step, what would be full almost at once.

        Raises:
            ConfigError: there is no room for a few windows.
        """
        least = _WINDOWS * sum(_window_bytes(info, table) for table in info.tables)
        if not self.has_room(least):
            raise ConfigError(
                f"max_bytes leaves {(self.most - self._used) / 1e6:,.2f} MB, and "
                f"{_WINDOWS} windows of what is watched take up to {least / 1e6:,.2f} MB; "
                "give it more, watch fewer signals, or lower window."
            )

    @property
    def wants_thinning(self) -> bool:
        """Whether it is time to thin the old part out."""
        return self.thins and self._used > THIN_FROM * self.most


class CountingStore(WrapperStore[Store]):
    """A store that tells a budget what is written to it."""

    def __init__(self, store: Store, budget: Budget) -> None:
        super().__init__(store)
        self._budget = budget
        #: Bytes of what was written here.
        self._sizes: dict[str, int] = {}

    async def set(self, key: str, value: Buffer) -> None:
        await super().set(key, value)
        self._count(key, len(value))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if not await self.exists(key):
            await self.set(key, value)

    async def delete_dir(self, prefix: str) -> None:
        await super().delete_dir(prefix)
        self._forget(key for key in list(self._sizes) if key.startswith(f"{prefix}/"))

    def _count(self, key: str, nbytes: int) -> None:
        self._budget.add(nbytes - self._sizes.get(key, 0))
        self._sizes[key] = nbytes

    def _forget(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._budget.add(-self._sizes.pop(key))


def _window_bytes(info: RunInfo, table: Table) -> int:
    """Bytes of a window of rows, on each replica and merged, before they are compressed."""
    columns = len(table.signals) * len(table.statistic.fields)
    return table.window * 8 * (3 + (len(info.replicas) + 1) * columns)
