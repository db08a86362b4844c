"""Runs in the formats of other programs.

``rows`` reads a run block by block, as tidy rows or with its histograms;
``csv_files``, ``parquet_files`` and ``tensorboard`` write them, each in bounded memory.
"""

from distwatch.export.csv_files import write_csv
from distwatch.export.parquet_files import check_pyarrow, write_list, write_parquet
from distwatch.export.rows import Wanted, statistics_of
from distwatch.export.tensorboard import write_events

__all__ = [
    "Wanted",
    "check_pyarrow",
    "statistics_of",
    "write_csv",
    "write_events",
    "write_list",
    "write_parquet",
]
