"""Reading runs: NumPy, Zarr and xarray only, never TensorFlow."""

from distwatch.analysis.diffs import RunDifference, SignalDifference, diff
from distwatch.analysis.listing import list_runs
from distwatch.analysis.opening import open_run
from distwatch.analysis.run import Run
from distwatch.analysis.signal_view import SignalView

__all__ = [
    "Run",
    "RunDifference",
    "SignalDifference",
    "SignalView",
    "diff",
    "list_runs",
    "open_run",
]
