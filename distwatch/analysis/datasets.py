"""Tables as xarray datasets: read now, or lazily through dask."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distwatch.errors import ConfigError, DamagedRowsWarning, DamagedStoreError
from distwatch.records import Floats
from distwatch.signals.schedules import is_whole
from distwatch.statistics import SPREAD, automatic, replica_spread, with_row
from distwatch.store.joining import aligned
from distwatch.store.layout import SIGNALS_PER_CHUNK, divisor
from distwatch.store.readable_tables import ReadableTable
from distwatch.store.reader import StoredRun
from distwatch.store.schema import COORDINATES
from distwatch.text import listed

if TYPE_CHECKING:
    import xarray as xr

#: A lazy chunk is about this large: small enough that a range of steps reads little else,
#: large enough that dask has few chunks to schedule.
_CHUNK_BYTES = 8 * 2**20

_ALL = slice(None)

#: What ``chunks`` may be: a number of steps, "auto", or either as ``{"step": ...}``.
Chunks = str | int | Mapping[str, str | int]


def dataset_of_run(stored: StoredRun, *, merged: bool, chunks: Chunks | None) -> xr.Dataset:
    """A whole run; see `distwatch.Run.to_xarray`."""
    tables = aligned(list(stored.tables.values()))
    if not tables:
        return no_dataset(list(stored.info.replicas), merged=merged)
    if chunks is None:
        datasets = [dataset_of(table, merged=merged) for table in tables]
    else:
        steps = steps_in_chunk(tables, chunks)
        datasets = [lazy_dataset_of(table, merged=merged, in_chunk=steps) for table in tables]
    for dataset, table in zip(datasets, tables, strict=True):
        dataset.attrs |= {
            "strategy": stored.info.strategy,
            "schedule": table.table.schedule,
            "lost_steps": stored.lost,
        }
    return datasets[0] if len(datasets) == 1 else joined(datasets)


def dataset_of(stored: ReadableTable, *, merged: bool) -> xr.Dataset:
    """A table, read now; see `distwatch.Run.to_xarray`."""
    found = statistics_of(stored, _ALL, merged=merged)
    return found.assign(spread=spread_of(stored, _ALL)) if merged else found


def statistics_of(stored: ReadableTable, signals: slice, *, merged: bool) -> xr.Dataset:
    """The statistics of some signals, on each replica or merged, read now."""
    import xarray as xr

    states = stored.read("merged", _ALL, signals) if merged else _rows(stored, _ALL, signals)
    variables = {name: (_dims(merged), v) for name, v in stored.table.read(states).items()}
    return xr.Dataset(variables, _coordinates_of(stored, signals, merged))


def spread_of(stored: ReadableTable, signals: slice) -> xr.DataArray:
    """How far apart the means of some signals lie on the replicas, read now."""
    import xarray as xr

    apart = replica_spread(_rows(stored, _ALL, signals))
    return xr.DataArray(apart, _coordinates_of(stored, signals, True), _dims(True), SPREAD.name)


def lazy_dataset_of(stored: ReadableTable, *, merged: bool, in_chunk: int) -> xr.Dataset:
    """The same as dask arrays, whose chunks hold some steps of a few signals each.

    Raises:
        ConfigError: dask is not installed.
    """
    import xarray as xr

    da = _dask_array()
    rows = _lazy(da, stored, in_chunk, merged=False)
    states = _lazy(da, stored, in_chunk, merged=True) if merged else rows
    dims = _dims(merged)

    def derived(name: str) -> Any:
        return states.map_blocks(
            lambda block: stored.table.read(block)[name].astype(np.float64),
            dtype=np.float64,
            drop_axis=states.ndim - 1,
            name=_unique(name),
        )

    variables = {name: (dims, derived(name)) for name in stored.table.values}
    if merged:
        apart = rows.map_blocks(
            replica_spread, dtype=np.float64, drop_axis=[1, 3], name=_unique(SPREAD.name)
        )
        variables[SPREAD.name] = (dims, apart)
    return xr.Dataset(variables, _coordinates_of(stored, _ALL, merged))


def no_dataset(replicas: list[int], *, merged: bool) -> xr.Dataset:
    """The dataset of a run without rows."""
    import xarray as xr

    steps = dict.fromkeys(COORDINATES, np.zeros(0, np.int64))
    coordinates = _coordinates(steps, (), None if merged else replicas)
    shape = (0, 0) if merged else (0, len(replicas), 0)
    usual = with_row(automatic()).values
    values = (*usual, SPREAD) if merged else usual
    variables = {value.name: (_dims(merged), np.zeros(shape)) for value in values}
    return xr.Dataset(variables, coordinates)


def joined(datasets: list[xr.Dataset]) -> xr.Dataset:
    """Datasets of several tables, on the same steps, as one."""
    import xarray as xr

    found = xr.concat(
        datasets,
        "signal",
        join="exact",
        data_vars="all",
        coords="minimal",
        compat="override",
        combine_attrs="drop_conflicts",
    )
    # -1 where a table lacks a step that another one has.
    return found.assign_coords(
        {
            name: ("step", np.max([part[name].values for part in datasets], axis=0))
            for name in COORDINATES[1:]
        }
    )


def _dims(merged: bool) -> tuple[str, ...]:
    return ("step", "signal") if merged else ("step", "replica", "signal")


def _coordinates_of(stored: ReadableTable, signals: slice, merged: bool) -> dict[str, Any]:
    steps = {name: stored.read(name) for name in COORDINATES}
    return _coordinates(steps, stored.table.names[signals], None if merged else stored.replicas)


def _coordinates(
    steps: dict[str, Any], signals: Sequence[str], replicas: Sequence[int] | None
) -> dict[str, Any]:
    return {
        "step": steps["step"],
        "signal": np.asarray(signals, None if signals else object),
        **{name: ("step", steps[name]) for name in COORDINATES[1:]},
        **({} if replicas is None else {"replica": np.asarray(replicas, np.int64)}),
    }


def _rows(stored: ReadableTable, steps: slice, signals: slice) -> Floats:
    """States on each replica, NaN where a worker wrote none."""
    rows, present = stored.read("rows", steps, signals), stored.read("present", steps)
    return rows if present.all() else np.where(present[..., None, None], rows, np.nan)


def _lazy(da: Any, stored: ReadableTable, in_chunk: int, *, merged: bool) -> Any:
    """States as a dask array of shape (step, signal, field), or with replica after step."""
    signals, fields = len(stored.table.signals), len(stored.table.fields)
    few = divisor(signals, SIGNALS_PER_CHUNK)
    replicas = () if merged else (len(stored.replicas),)
    shape = (stored.steps, *replicas, signals, fields)
    chunks = da.core.normalize_chunks((in_chunk, *replicas, few, fields), shape)

    def read(block_id: Any = None) -> Floats:
        at_steps = slice(block_id[0] * in_chunk, (block_id[0] + 1) * in_chunk)
        at_signals = slice(block_id[-2] * few, (block_id[-2] + 1) * few)
        try:
            if merged:
                return stored.read("merged", at_steps, at_signals)
            return _rows(stored, at_steps, at_signals)
        except DamagedStoreError as error:
            # An array that was made cannot become shorter.
            warnings.warn(f"These are NaN: {error}", DamagedRowsWarning, stacklevel=1)
            return np.full([each[i] for each, i in zip(chunks, block_id, strict=True)], np.nan)

    return da.map_blocks(
        read,
        chunks=chunks,
        dtype=np.float64,
        meta=np.empty((0,) * len(chunks)),
        name=_unique("merged" if merged else "rows"),
    )


def _unique(name: str) -> str:
    """A name for dask, which would otherwise hash everything that the function refers to."""
    return f"{name}-{uuid.uuid4().hex}"


def steps_in_chunk(tables: Sequence[ReadableTable], chunks: Chunks) -> int:
    """How many steps a lazy chunk of each table holds, equal so that they can be joined.

    Raises:
        ConfigError: ``chunks`` is no number of steps.
    """
    steps: Any = chunks
    if isinstance(chunks, Mapping):
        if unknown := sorted({*map(str, chunks)} - {"step"}):
            raise ConfigError(
                f"chunks={chunks!r}: leave out {listed(unknown)}, since a chunk holds all "
                "replicas, and signals as the store does; write {'step': 256}."
            )
        steps = chunks.get("step", "auto")
        # As in xarray: the whole dim.
        steps = max(1, tables[0].steps) if is_whole(steps) and steps == -1 else steps
    if steps == "auto":
        return min(map(_steps_that_fit, tables))
    if not is_whole(steps) or steps < 1:
        raise ConfigError(
            f"chunks={chunks!r}: give a number of steps, or 'auto', or {{'step': 256}}."
        )
    return int(steps)


def _steps_that_fit(stored: ReadableTable) -> int:
    signals = divisor(len(stored.table.signals), SIGNALS_PER_CHUNK)
    row = 8 * len(stored.replicas) * signals * len(stored.table.fields)
    return max(1, _CHUNK_BYTES // (row * stored.table.window)) * stored.table.window


def _dask_array() -> Any:
    try:
        import dask.array
    except ModuleNotFoundError as error:
        raise ConfigError(
            "chunks: lazy reading needs dask, which is not installed: "
            'pip install "distwatch[dask]".'
        ) from error
    return dask.array
