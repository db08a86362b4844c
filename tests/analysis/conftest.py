"""What tests of comparing runs share."""

import pytest
from chosen_runs import made_run

import distwatch as dw


@pytest.fixture
def made(tmp_path):
    """Write two runs of chosen deltas, and compare them."""

    def compare(a, b, *, more=None, **options):
        paths = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
        made_run(paths[0], a, **options)
        made_run(paths[1], b, **{**options, **(more or {})})
        return dw.diff(*paths)

    return compare
