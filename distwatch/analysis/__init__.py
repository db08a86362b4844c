"""Reading runs: NumPy, Zarr and xarray only, never TensorFlow."""

from distwatch.analysis.diffs import RunDifference, SignalDifference, diff
from distwatch.analysis.run import Run, SignalView, open_run

__all__ = ["Run", "RunDifference", "SignalDifference", "SignalView", "diff", "open_run"]
