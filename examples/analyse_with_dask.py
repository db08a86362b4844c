"""What does a run show, long after training, on a machine without TensorFlow or a GPU?

    python examples/digits_under_mirrored.py runs/digits.zarr
    python examples/analyse_with_dask.py [runs/digits.zarr]

A run opens as an xarray dataset of dask arrays: nothing is read until something is computed,
and then only what that needs, so runs of any length can be analysed. Rows hold exact states,
not averages, so they can be merged: over replicas, over the steps of an epoch, or over all of
them.

Look at the merged inputs: every epoch has the same mean and standard deviation, those of the
whole training data, although no step and no replica saw more than 32 images.
"""

from __future__ import annotations

import argparse
import sys

import dask
import numpy as np
import xarray as xr

import distwatch as dw
from distwatch.errors import NotARunError


def by_epoch(rows: xr.Dataset) -> xr.Dataset:
    """Merge the steps of each epoch, and the replicas if there are any, exactly.

    Counts and sums add up. The squares about the common mean are those within each row and
    those between rows (Chan, Golub & LeVeque 1979); a mean of standard deviations would
    leave out the second part.
    """
    over = [dim for dim in ("step", "replica") if dim in rows.dims]

    def total(of: xr.DataArray) -> xr.DataArray:
        return of.groupby("epoch").sum(over)

    finite = rows["count"] - rows["nans"] - rows["infs"]
    count = total(finite)
    mean = total(finite * rows["mean"]) / count
    from_mean = rows["mean"] - mean.sel(epoch=rows["epoch"])
    squares = total(finite * (rows["std"] ** 2 + from_mean**2))
    return xr.Dataset({"count": count, "mean": mean, "std": np.sqrt(squares / count)})


def divergence(merged: xr.Dataset) -> xr.DataArray:
    """How far apart the replicas' means lie, in standard deviations: dims (step, signal)."""
    return (merged["spread"] / merged["std"]).where(merged["std"] > 0)


def show_inputs(run: dw.Run, rows: xr.Dataset) -> None:
    print("\nInputs, merged over replicas and the steps of each epoch")
    print(by_epoch(rows.sel(signal="input")).compute().to_dataframe()[["count", "mean", "std"]])

    print("\nQuantiles of all inputs, from histograms, to 5%")
    for replica in run.quantile("input", [0.5, 0.9, 0.99], per_replica=True):
        values = " ".join(f"{value:.3f}" for value in replica.values)
        print(f"replica {int(replica.replica)}: median, 90%, 99%: {values}")


def show_signals(merged: xr.Dataset) -> None:
    # One pass over the run for both answers: dask reads every chunk once.
    apart = divergence(merged)
    loss, change = merged["mean"].sel(signal="loss"), merged["l2"]
    together = xr.corr(change, loss.where(change.notnull()), "step")
    apart_by_epoch, together = dask.compute(apart.groupby("epoch").mean(), together)

    print("\nHow far the replicas lie apart, in standard deviations, epoch by epoch")
    table = apart_by_epoch.transpose("signal", "epoch").to_pandas()
    print(table.drop("loss").round(4))  # one number a replica has no width

    print("\nCorrelation with the loss, step by step, of the size of")
    for signal in together.drop_sel(signal="loss").sortby(together).signal.values:
        print(f"  {signal:24} {float(together.sel(signal=signal)):+.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", default="runs/digits.zarr", help="is read only")
    path = parser.parse_args().run
    try:
        run = dw.open_run(path)
    except NotARunError as error:
        sys.exit(f"{error}\nWrite one: python examples/digits_under_mirrored.py {path}")

    rows = run.to_xarray(chunks="auto")  # dims (step, replica, signal)
    merged = run.to_xarray(merged=True, chunks="auto")  # dims (step, signal)
    print(f"{len(run)} steps, {len(rows.data_vars)} statistics, {rows.nbytes:,} bytes if read")
    show_inputs(run, rows)
    show_signals(merged)
    print("\nTensorFlow was loaded:", "tensorflow" in sys.modules)


if __name__ == "__main__":
    main()
