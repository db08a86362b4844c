"""Tidy rows, and lists of runs, as Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distwatch.errors import ConfigError
from distwatch.export.rows import WHOLE, Progress, Wanted, statistics_of, tidy_rows
from distwatch.store import StoredRun
from distwatch.store.schema import COORDINATES

if TYPE_CHECKING:
    import pandas as pd


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
    pa = check_pyarrow()
    schema = pa.schema(
        [
            *((name, pa.int64()) for name in COORDINATES),
            *((name, pa.dictionary(pa.int32(), pa.string())) for name in ("replica", "signal")),
            *(
                (name, pa.int64() if name in WHOLE else pa.float64())
                for name in statistics_of(stored, wanted)
            ),
        ],
        metadata={"distwatch.run": str(stored.path), "distwatch.phase": stored.info.phase},
    )
    rows = 0
    with pa.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        for columns in tidy_rows(stored, wanted, progress):
            # From pandas: NaN is null.
            arrays = [pa.array(columns[f.name], f.type, from_pandas=True) for f in schema]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            rows += len(columns["step"])
    return rows


def write_list(runs: pd.DataFrame, path: Path) -> None:
    """Write a list of runs, a row for each, as `distwatch.list_runs` gives it.

    ``created`` is a timestamp in UTC; numbers of things are int64, metrics float64. What is
    not known is null, never NaN. Columns of texts and numbers have these types also where no
    run has a value, so that files of several folders can be read as one table.

    Args:
        runs: the list.
        path: the file; an existing one is replaced.

    Raises:
        ConfigError: pyarrow is not installed.
    """
    pa = check_pyarrow()
    kinds = {"M": pa.timestamp("us", tz="UTC"), "i": pa.int64(), "f": pa.float64()}
    schema = pa.schema(
        [(name, kinds.get(kind.kind, pa.string())) for name, kind in runs.dtypes.items()]
    )
    texts = {
        name: runs[name].map(_as_utf8, na_action="ignore")
        for name, kind in zip(schema.names, schema.types, strict=True)
        if kind == pa.string()
    }
    table = pa.Table.from_pandas(runs.assign(**texts), schema, preserve_index=False)
    # What pandas says of itself in a file is of no use to others.
    pa.parquet.write_table(table.replace_schema_metadata(), path, compression="zstd")


def _as_utf8(text: str) -> str:
    """The same text; of names of files, bytes that no text has are escaped."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def check_pyarrow() -> Any:
    """The module ``pyarrow``, with ``pyarrow.parquet`` loaded.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ConfigError(
            'Parquet needs pyarrow, which is not installed: pip install "distwatch[parquet]".'
        ) from error
    return pyarrow
