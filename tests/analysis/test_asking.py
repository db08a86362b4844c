"""What a run says to a question that it cannot answer."""

import pytest

import distwatch as dw
from distwatch.errors import ConfigError, UnknownSignalError
from distwatch.testing.fake import fake_run

HAS = "count, mean, std, min, max, l1, l2, zeros, nans, infs"


@pytest.fixture
def run(tmp_path):
    return dw.open_run(fake_run(tmp_path / "run.zarr", steps=3).path)


def test_a_statistic_that_a_signal_has_not_names_those_it_has(run):
    # No misspelling of another one: updates have it.
    with pytest.raises(ConfigError) as told:
        run["activation/dense"].merged("ratio")
    assert (
        str(told.value)
        == f"activation/dense has no statistic 'ratio'; it has {HAS}, size, spread."
    )
    with pytest.raises(ConfigError) as told:
        run["activation/dense"].per_replica("spread")
    assert str(told.value) == f"activation/dense has no statistic 'spread'; it has {HAS}, size."


def test_a_signal_that_a_run_has_not_names_the_nearest(run):
    with pytest.raises(UnknownSignalError, match="nearest: 'activation/dense"):
        run["dense_7"]
