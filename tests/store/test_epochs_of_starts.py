"""Epochs of several starts are one course; what cannot be understood is left out."""

from dataclasses import replace

import numpy as np
import pytest

import distwatch as dw
from distwatch.records import Epoch, Origin, RunInfo, Table
from distwatch.signals import Signal
from distwatch.store import EpochLine, epochs_name
from distwatch.testing.fake import fake_block, write_fake

TABLE = Table("table-00", (Signal("loss", "none"),), "every(1)", 4)
INFO = RunInfo((TABLE,), (0,), "made up", {})


def values(step, replica, signal):
    return np.array([step + 5.0])


@pytest.fixture
def run(tmp_path):
    """A run of two starts, the later one from step 6 on."""
    later = replace(INFO, origin=Origin(1, 6, 6))
    write_fake(
        tmp_path / "run.zarr",
        (INFO, [fake_block(INFO, TABLE, range(8), values)]),
        (later, [fake_block(later, TABLE, range(6, 12), values)]),
    )
    return tmp_path / "run.zarr"


def write(run, start, *lines, worker=0):
    (run / epochs_name(worker, start)).write_bytes(b"".join(lines))


def test_what_is_not_finite_is_written_too(run):
    write(run, 0, line(0, 4, np.nan, np.inf), line(1, 6, 2.0))
    epochs = dw.open_run(run).epochs()
    np.testing.assert_array_equal(epochs["value"].sel(metric="loss"), [np.nan, 2.0])
    np.testing.assert_array_equal(epochs["learning_rate"], [np.nan, 0.1])


def line(number, step, loss, rate=0.1):
    return EpochLine(Epoch(number, step, {"loss": loss}, rate)).line()


def test_a_later_start_replaces_epochs(run):
    write(run, 0, line(0, 3, 3.0), line(1, 6, 2.0), line(2, 8, 1.5))
    write(run, 1, line(2, 9, 1.0), line(3, 12, float("inf"), None))
    write(run, 1, line(2, 9, 7.0), worker=1)
    epochs = dw.open_run(run).epochs()
    assert epochs.step.values.tolist() == [3, 6, 9, 12]
    assert epochs.epoch.values.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(epochs.value.sel(metric="loss"), [3.0, 2.0, 1.0, np.nan])
    np.testing.assert_array_equal(epochs.learning_rate, [0.1, 0.1, 0.1, np.nan])


def test_lines_that_are_none_are_left_out(run):
    wrong = [b"", b"{}", b"[1]", b"\xff", b'{"number": -1, "step": 1, "metrics": {}}']
    wrong.append(b'{"number": 1, "step": 1, "metrics": {"loss": "x"}}')
    write(run, 0, line(0, 3, 3.0), *(each + b"\n" for each in wrong), line(1, 6, 2.0)[:-9])
    assert dw.open_run(run).epochs().epoch.values.tolist() == [0]


def test_older_runs_have_none(run):
    epochs = dw.open_run(run).epochs()
    assert dict(epochs.sizes) == {"epoch": 0, "metric": 0}
