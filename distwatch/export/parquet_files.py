"""Tidy rows as Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from distwatch.errors import ConfigError
from distwatch.export.rows import WHOLE, Columns, Progress, Wanted, statistics_of, tidy_rows
from distwatch.store import StoredRun

_COORDINATES = ("step", "epoch", "iteration")
_NAMES = ("replica", "signal")


def write_parquet(
    stored: StoredRun, wanted: Wanted, path: Path, *, progress: Progress = lambda _: None
) -> int:
    """Write a run's tidy rows, a row group a block; returns how many.

    Columns of counts are int64, those of other statistics float64, exact; unknown values are
    null, never NaN. Names are those of the run.

    Args:
        stored: the run.
        wanted: which part of it.
        path: the file; an existing one is replaced.
        progress: called with how many more steps are written.

    Raises:
        ConfigError: pyarrow is not installed, or the run does not have what is wanted.
        UnknownSignalError: nor such signals.
    """
    pa, parquet = _pyarrow()
    names = statistics_of(stored, wanted)
    schema = _schema(pa, names, stored)
    rows = 0
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for columns in tidy_rows(stored, wanted, progress):
            writer.write_table(_table(pa, columns, schema))
            rows += len(columns["step"])
    return rows


def check_pyarrow() -> None:
    """Refuse early if pyarrow is missing.

    Raises:
        ConfigError: it is not installed.
    """
    _pyarrow()


def _schema(pa: Any, names: tuple[str, ...], stored: StoredRun) -> Any:
    return pa.schema(
        [
            *((name, pa.int64()) for name in _COORDINATES),
            *((name, pa.dictionary(pa.int32(), pa.string())) for name in _NAMES),
            *((name, pa.int64() if name in WHOLE else pa.float64()) for name in names),
        ],
        metadata={"distwatch.run": str(stored.path), "distwatch.phase": stored.info.phase},
    )


def _table(pa: Any, columns: Columns, schema: Any) -> Any:
    arrays = []
    for field in schema:
        values = columns[field.name]
        if field.name in _NAMES:
            arrays.append(pa.array(values, pa.string()).dictionary_encode())
        elif field.name in _COORDINATES:
            arrays.append(pa.array(values))
        else:
            unknown = np.isnan(values)
            filled = np.where(unknown, 0, values).astype(field.type.to_pandas_dtype())
            arrays.append(pa.array(filled, mask=unknown))
    return pa.Table.from_arrays(arrays, schema=schema)


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ConfigError(
            'Parquet needs pyarrow, which is not installed: pip install "distwatch[parquet]".'
        ) from error
    return pyarrow, pyarrow.parquet
