"""Every stored row equals NumPy, computed from what the model itself put out."""

import keras
import numpy as np
import pytest
from trainings import fit, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import RoundingWarning
from distwatch.statistics import ROW, measure


def deltas_of(batches, reference):
    """The deltas of consecutive batches: the leading rows that both have, in float32."""
    if reference == "none":
        return list(batches)
    before = [np.zeros_like(batches[0][:0]), *batches[:-1]]
    common = [min(len(now), len(then)) for now, then in zip(batches, before, strict=True)]
    triples = zip(batches, before, common, strict=True)
    return [now[:rows] - then[:rows] for now, then, rows in triples]


def assert_rows_equal(got, deltas, size=0.0):
    """Compare rows (dims step) with NumPy, to 1e-6 of the mean absolute delta or ``size``."""
    for step, delta in enumerate(deltas):
        exact = ROW.compute(ROW.from_sums(measure(delta)))
        row = {name: got[name].values[step] for name in got.data_vars if name in exact}
        for name in ("count", "zeros", "nans", "infs"):
            assert row[name] == exact[name], (step, name)
        if not delta.size:
            assert all(np.isnan(row[n]) for n in ("mean", "std", "min", "max", "l1", "l2"))
            continue
        scale = max(size, np.abs(delta, dtype=np.float64).mean())
        for name in ("mean", "std", "min", "max"):
            assert row[name] == pytest.approx(exact[name], rel=0, abs=1e-6 * scale), (
                step,
                name,
            )
        for name in ("l1", "l2"):
            elements = delta.size if name == "l1" else delta.size**0.5
            allowed = max(1e-6 * exact[name], 1e-6 * size * elements)
            assert row[name] == pytest.approx(exact[name], rel=0, abs=allowed), (step, name)


# Uneven shards are a known fault, which a Watch says; here they are what is tried.
@pytest.mark.fast_cases("2-7-previous")
@pytest.mark.filterwarnings(
    "ignore:this training runs into known faults of Keras:distwatch.errors.KnownTrapWarning"
)
@pytest.mark.parametrize(
    ("replicas", "spe", "reference"),
    [
        (1, 1, "previous"),
        (1, 7, "none"),
        (2, 1, "none"),
        (2, 7, "previous"),
        (4, 1, "previous"),
        (8, 1, "previous"),
    ],
)
def test_every_row_equals_numpy(tmp_path, replicas, spe, reference):
    # 42 rows in batches of 16: 16, 16, 10 and again; the last is short on every
    # replica, unequal on 4 and leaves replicas with one row or none on 8.
    x, y = unlike_rows(42)
    model, ears = small_model(strategy_over(replicas), ears=True, spe=spe)
    watch = dw.Watch(tmp_path / "run.zarr", reference=reference, window=4)
    fit(model, x, y, watch, epochs=3)

    run = dw.open_run(tmp_path / "run.zarr")
    rows, merged = run.to_xarray(), run.to_xarray(merged=True)
    assert list(rows.step.values) == list(range(9))
    for layer, ear in enumerate(ears):
        signal = f"activation/dense_{layer}"
        each = [deltas_of(ear.recorded[replica], reference) for replica in range(replicas)]
        for replica in range(replicas):
            assert len(ear.recorded[replica]) == 9
            assert_rows_equal(rows.sel(signal=signal, replica=replica), each[replica])
        together = [np.concatenate(parts) for parts in zip(*each, strict=True)]
        assert_rows_equal(merged.sel(signal=signal), together)
        assert_spread_equal(merged.sel(signal=signal), list(zip(*each, strict=True)))
    if replicas > 1:
        # The replicas did see different things, or nothing was shown.
        assert (merged.spread.isel(step=slice(1, None)) > 0.01).any()


def assert_spread_equal(merged, steps):
    for step, parts in enumerate(steps):
        means = [part.mean(dtype=np.float64) for part in parts if part.size]
        got = merged.spread.values[step]
        if not means:
            assert np.isnan(got)
            continue
        scale = float(max(np.abs(part).mean() for part in parts if part.size))
        assert got == pytest.approx(max(means) - min(means), rel=0, abs=2e-6 * scale)


def test_compiled_step_tells_the_truth(tmp_path):
    """With XLA there is no ear; one layer without weights of its own stands for it."""
    x, y = unlike_rows(42)
    model, _ = small_model(strategy_over(1), jit=True)
    model.optimizer.learning_rate = 0.0
    watch = dw.Watch(tmp_path / "run.zarr", signals="dense_0", window=4)
    with pytest.warns(RoundingWarning, match="jit_compile=False"):
        fit(model, x, y, watch, epochs=2)
    assert model.jit_compile

    kernel, bias = model.layers[0].get_weights()
    batches = [np.maximum(b @ kernel + bias, 0) for b in np.split(x, [16, 32])] * 2
    rows = dw.open_run(tmp_path / "run.zarr").to_xarray().isel(signal=0, replica=0)
    for step, delta in enumerate(deltas_of(batches, "previous")):
        assert rows["count"].values[step] == delta.size
        if delta.size:
            # Another matrix product than the model's own, so to its rounding only.
            near = pytest.approx(measure(delta).l1, rel=1e-5)
            assert rows["l1"].values[step] == near


@pytest.mark.fast_cases("2")
@pytest.mark.parametrize("replicas", [1, 2])
def test_sampled_steps_measure_against_the_step_before(tmp_path, replicas):
    """Not against the last sampled step: every(3) looks at 0, 3, 6 against 2, 5."""
    x, y = unlike_rows(42)
    model, ears = small_model(strategy_over(replicas), ears=True)
    watch = dw.Watch(tmp_path / "run.zarr", signals="dense_1", schedule=dw.every(3), window=4)
    fit(model, x, y, watch, epochs=3)

    rows = dw.open_run(tmp_path / "run.zarr").to_xarray().isel(signal=0)
    assert list(rows.step.values) == [0, 3, 6]
    for replica in range(replicas):
        every = deltas_of(ears[1].recorded[replica], "previous")
        assert_rows_equal(rows.sel(replica=replica), [every[0][:0], every[3], every[6]])


def test_a_schedule_changes_while_training(tmp_path):
    x, y = unlike_rows(64)
    model, _ = small_model(strategy_over(1))
    watch = dw.Watch(tmp_path / "run.zarr", schedule=dw.every(2), window=4)

    class Change(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            watch.schedule.k = 2 if epoch == 0 else 4

    fit(model, x, y, Change(), watch, batch=8, epochs=2)
    steps = dw.open_run(tmp_path / "run.zarr").to_xarray().step.values
    # The change is taken over after the first step of the second epoch.
    assert list(steps) == [0, 2, 4, 6, 8, 12]
