"""How many bytes a run may take: counted as they are written, by all who write to it."""

from __future__ import annotations

import math
import threading

from distwatch.errors import ConfigError
from distwatch.records import RunInfo, Table
from distwatch.text import format_bytes

#: From this part of the budget on, old steps are thinned out. A copy of them without every
#: second step, and what is recorded meanwhile, fit into the rest.
THIN_FROM = 0.5

#: How many windows of rows a budget must have room for.
_WINDOWS = 4


class Budget:
    """A bound on the bytes of a run.

    Args:
        most: that bound; infinite if nothing bounds the run.
        thins: whether old steps are thinned out before it is reached.
        used: bytes that are there already.
    """

    def __init__(self, most: float = math.inf, *, thins: bool = False, used: int = 0) -> None:
        self.most = most
        self.thins = thins
        #: Bytes of the run.
        self.used = used
        #: Bytes of each file that was written under this budget.
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()

    def count(self, key: str, nbytes: int) -> None:
        """Count a file that was written, perhaps in the place of another one."""
        if self.most == math.inf:
            return
        with self._lock:
            self.used += nbytes - self._sizes.get(key, 0)
            self._sizes[key] = nbytes

    def forget(self, path: str) -> None:
        """Count the files below a path as removed."""
        with self._lock:
            for key in [key for key in self._sizes if key.startswith(f"{path}/")]:
                self.used -= self._sizes.pop(key)

    def has_room(self, nbytes: int) -> bool:
        """Whether so many more bytes would fit."""
        return self.used + nbytes <= self.most

    def check_suffices(self, info: RunInfo) -> None:
        """Refuse, before the first step, a budget that would be full almost at once.

        Raises:
            ConfigError: there is no room for a few windows of rows.
        """
        least = _WINDOWS * sum(_window_bytes(info, table) for table in info.tables)
        if not self.has_room(least):
            raise ConfigError(
                f"max_bytes leaves {format_bytes(max(0, self.most - self.used))}, and "
                f"{_WINDOWS} windows of what is watched take up to {format_bytes(least)}; "
                "give it more, watch fewer signals, or lower window."
            )

    @property
    def wants_thinning(self) -> bool:
        """Whether it is time to thin out old steps."""
        return self.thins and self.used > THIN_FROM * self.most


def _window_bytes(info: RunInfo, table: Table) -> int:
    """Bytes of a window of rows, on each replica and merged, before they are compressed."""
    columns = len(table.signals) * len(table.statistic.fields)
    return table.window * 8 * (3 + (len(info.replicas) + 1) * columns)
