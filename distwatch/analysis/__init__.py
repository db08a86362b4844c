"""Reading runs: NumPy, Zarr and xarray only, never TensorFlow."""

from distwatch.analysis.run import Run, SignalView, open_run

__all__ = ["Run", "SignalView", "open_run"]
