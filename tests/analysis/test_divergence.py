"""Since when replicas lie apart, and by what: on made-up runs whose change is known."""

import numpy as np
import pytest

import distwatch as dw
from distwatch.errors import ConfigError
from distwatch.records import RunInfo, Table
from distwatch.signals import Signal
from distwatch.testing.fake import fake_block, write_fake

STEPS = 160
INPUT, HIDDEN, COPY = "data/input", "activation/hidden", "weight/kernel"


def made_run(path, change, replicas=4, steps=STEPS):
    """Normal values; ``change`` takes (step, replica, name, values) and gives others."""
    rng = np.random.default_rng(3)
    signals = (Signal(INPUT, "none"), Signal(HIDDEN, "none"), Signal(COPY, "none", copied=True))
    table = Table("table-00", signals, "every(1)", 32)
    info = RunInfo((table,), tuple(range(replicas)), "made up", {})

    def values(step, replica, position):
        # Not of one size, and with a mean far from zero that drifts for all alike.
        made = rng.normal(5.0 + 0.02 * step, 2.0, 12 + 3 * replica)
        return change(step, replica, signals[position].name, made)

    blocks = [
        fake_block(info, table, range(a, min(a + 32, steps)), values)
        for a in range(0, steps, 32)
    ]
    write_fake(path, (info, blocks))
    return dw.open_run(path)


def same(step, replica, name, values):
    return values


def test_replicas_of_one_kind_do_not_diverge(tmp_path):
    run = made_run(tmp_path / "run.zarr", same)
    found = run.divergence()
    assert found.signal.values.tolist() == [INPUT, HIDDEN]
    assert found.left.isnull().all()
    assert found.offset.isnull().all()
    assert found.cause.values.tolist() == [""] * 4
    np.testing.assert_allclose(found.within, 4.0, rtol=0.1)
    # The variance of a mean is that of an element, divided by how many there are: 12 to 21.
    assert ((found.between > 4 / 22) & (found.between < 4 / 11)).all()


@pytest.mark.parametrize(
    ("names", "cause"), [((INPUT, HIDDEN), "data"), ((HIDDEN,), "unknown")]
)
def test_the_step_at_which_a_replica_leaves_is_found(tmp_path, names, cause):
    def change(step, replica, name, values):
        return values + 3.0 * (replica == 2 and name in names and step >= 100)

    found = made_run(tmp_path / "run.zarr", change).divergence()
    hidden = found.sel(signal=HIDDEN)
    assert abs(float(hidden.left.sel(replica=2)) - 100) <= 1
    assert float(hidden.offset.sel(replica=2)) == pytest.approx(1.5, rel=0.15)
    assert hidden.left.sel(replica=[0, 1, 3]).isnull().all()
    assert float(hidden.score.sel(replica=2)) > 3.5
    assert found.cause.values.tolist() == ["", "", cause, ""]


def test_one_that_always_differed_did_so_from_the_first_step(tmp_path):
    def change(step, replica, name, values):
        return values - 2.0 * (replica == 1 and name == HIDDEN)

    hidden = made_run(tmp_path / "run.zarr", change).divergence().sel(signal=HIDDEN)
    assert float(hidden.left.sel(replica=1)) == 0
    assert float(hidden.offset.sel(replica=1)) == pytest.approx(-1.0, rel=0.15)


def test_a_replica_that_comes_nearer_was_apart_from_the_first_step(tmp_path):
    def change(step, replica, name, values):
        return values + (4.0 if step < 40 else 1.6) * (replica == 1 and name == HIDDEN)

    hidden = made_run(tmp_path / "run.zarr", change).divergence().sel(signal=HIDDEN)
    assert float(hidden.left.sel(replica=1)) == 0


def test_a_last_batch_of_few_rows_is_no_change(tmp_path):
    def change(step, replica, name, values):
        return values[:1] + 20.0 * (replica == 1) if step >= STEPS - 2 else values

    assert made_run(tmp_path / "run.zarr", change).divergence().left.isnull().all()


def test_what_is_one_number_is_compared_too(tmp_path):
    def change(step, replica, name, values):
        return values[:1] + 8.0 * (replica == 0 and step >= 90)

    hidden = made_run(tmp_path / "run.zarr", change).divergence().sel(signal=HIDDEN)
    assert abs(float(hidden.left.sel(replica=0)) - 90) <= 2
    assert hidden.left.sel(replica=[1, 2, 3]).isnull().all()


def test_another_spread_is_a_difference_too(tmp_path):
    def change(step, replica, name, values):
        centre = values.mean()
        wide = replica == 3 and name == HIDDEN and step >= 64
        return centre + (values - centre) * (2.0 if wide else 1.0)

    hidden = made_run(tmp_path / "run.zarr", change).divergence().sel(signal=HIDDEN)
    assert abs(float(hidden.left.sel(replica=3)) - 64) <= 2


def test_of_two_both_are_apart(tmp_path):
    def change(step, replica, name, values):
        return values + 3.0 * (replica == 1 and step >= 100)

    found = made_run(tmp_path / "run.zarr", change, replicas=2).divergence()
    assert found.left.notnull().all()
    assert found.score.isnull().all()


def test_of_few_steps_nothing_is_said(tmp_path):
    def change(step, replica, name, values):
        return values + 30.0 * (replica == 1)

    found = made_run(tmp_path / "run.zarr", change, steps=20).divergence()
    assert found.left.isnull().all()


def test_steps_without_numbers_are_passed_over(tmp_path):
    def change(step, replica, name, values):
        if name == HIDDEN and 10 <= step < 20:
            return np.full_like(values, np.nan)
        return values[:0] if replica == 3 and step % 5 == 4 else values

    found = made_run(tmp_path / "run.zarr", change).divergence()
    assert found.left.isnull().all()
    assert np.isfinite(found.within).all()


def test_one_replica_and_parts(tmp_path):
    run = made_run(tmp_path / "run.zarr", same, replicas=1)
    assert run.divergence().left.isnull().all()
    with pytest.raises(ConfigError, match="whole"):
        run.sel(step=slice(0, 50)).divergence()
