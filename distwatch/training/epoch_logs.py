"""What a Watch adds to Keras's ``logs`` at the end of an epoch.

    dw.Watch("run.zarr", log_to_keras=["activation/dense:l2", "update/*:ratio"])

gives every callback the keys ``activation/dense/l2``, ``update/dense/kernel/ratio``, ...
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from distwatch.config import LogRequest
from distwatch.errors import ConfigError, nearest
from distwatch.records import Block, Floats, RunInfo, Table
from distwatch.signals import Pattern, names_matching, written
from distwatch.statistics import merge_axis, with_row

#: What `str.format` takes for something else within braces.
_SPECIAL = re.compile(r"[.:!\[\]{}]")


class _Logged(NamedTuple):
    key: str
    table: str
    signal: int
    statistic: str


class EpochLogs:
    """Merges what was asked for over the steps of an epoch, exactly.

    Args:
        requests: what was asked for.
        info: what is watched.
        pass_over: called with each pattern that has wildcards and matches no signal, and
            why.

    Raises:
        UnknownSignalError: a signal that was named is not watched.
        ConfigError: a signal has no such statistic, or two keys would be the same.
    """

    def __init__(
        self,
        requests: tuple[LogRequest, ...],
        info: RunInfo,
        pass_over: Callable[[str, str], None],
    ) -> None:
        self._tables = {table.name: table for table in info.tables if not table.of_copies}
        self._rows = {
            name: with_row(tuple(s for s in table.statistic.further if not s.wide))
            for name, table in self._tables.items()
        }
        self._logged = _resolved(requests, info, pass_over)
        #: The merged states of this epoch so far, of tables that were looked at in it.
        self._totals: dict[str, Floats] = {}
        #: What the last epoch that ended came to; NaN where nothing is known.
        self.values = self._derived()

    def observe(self, block: Block) -> None:
        """Take a block of this epoch, merged over all replicas."""
        if not len(block) or block.table not in self._tables:
            return
        row = self._rows[block.table]
        states = block.merged[..., : len(row.fields)]
        if block.table in self._totals:
            states = np.concatenate([self._totals[block.table][None], states])
        self._totals[block.table] = merge_axis(row, states, axis=0)

    def end_epoch(self) -> None:
        """Derive this epoch's values, and begin the next one."""
        self.values = self._derived()
        self._totals = {}

    def _derived(self) -> dict[str, float]:
        found = {name: self._tables[name].read(t) for name, t in self._totals.items()}
        return {
            each.key: float(found[each.table][each.statistic][each.signal])
            if each.table in found
            else np.nan
            for each in self._logged
        }


def numbers_of(logs: Mapping[str, Any]) -> dict[str, float]:
    """Those of Keras's logs that are one number; a callback may have added anything."""
    found = {}
    for name, value in logs.items():
        with contextlib.suppress(TypeError, ValueError):
            found[str(name)] = float(value)
    return found


def _resolved(
    requests: tuple[LogRequest, ...], info: RunInfo, pass_over: Callable[[str, str], None]
) -> list[_Logged]:
    def listed(pattern: Pattern, what: str) -> None:
        pass_over(f"log_to_keras: {written(pattern)}", f"it matches no {what}")

    where = "this Watch (see log_to_keras)"
    chosen = [table for table in info.tables if not table.of_copies]
    places = {name: (table, i) for table in chosen for i, name in enumerate(table.names)}
    found: dict[str, _Logged] = {}
    names: dict[str, str] = {}
    for pattern, statistic in requests:
        for name in names_matching([pattern], list(places), where, pass_over=listed):
            table, position = places[name]
            _check_has(table, name, statistic)
            key = f"{_SPECIAL.sub('_', name)}/{statistic}"
            if names.setdefault(key, name) != name:
                raise ConfigError(
                    f"log_to_keras: {names[key]} and {name} would both be logged as {key!r}; "
                    "name one of them."
                )
            found[key] = _Logged(key, table.name, position, statistic)
    return list(found.values())


def _check_has(table: Table, name: str, statistic: str) -> None:
    if statistic not in table.values:
        raise ConfigError(
            f"log_to_keras: {name} has no statistic {statistic!r} that can be merged over the "
            f"steps of an epoch; nearest: {nearest(statistic, list(table.values))}."
        )
