"""Runs in the formats of other programs.

``rows`` takes a run apart block by block, as tidy rows or with its histograms;
``csv_files``, ``parquet_files`` and ``tensorboard`` write them, each in bounded memory.
"""

from distwatch.export.csv_files import write_csv
from distwatch.export.parquet_files import check_pyarrow, write_parquet
from distwatch.export.rows import Wanted, check_wanted
from distwatch.export.tensorboard import write_events

__all__ = [
    "Wanted",
    "check_pyarrow",
    "check_wanted",
    "write_csv",
    "write_events",
    "write_parquet",
]
