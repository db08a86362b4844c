"""What is said of a real training with planted faults, live and from its store."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import strategy_over

import distwatch as dw
from distwatch.analysis.kept_findings import read

layers = keras.layers


def assert_kept(run):
    """The training left its findings beside the rows: exactly those of the rows."""
    assert read(run._store) is not None
    assert run.findings() == run.findings(run.digest())
    assert run.verify_findings() == []


@pytest.mark.slow
def test_dead_units_and_a_high_learning_rate(tmp_path, capsys):
    rng = np.random.default_rng(0)
    x = rng.normal(1.0, 2.0, (960, 12)).astype("float32")
    y = rng.normal(size=(960, 1)).astype("float32")
    # Every second half of a batch of 32 goes to replica 1, whose sensor is off.
    x[np.arange(960) % 32 >= 16] += 3.0
    strategy = strategy_over(2)
    with strategy.scope():
        keras.utils.set_random_seed(3)
        stack = [
            keras.Input((12,)),
            layers.Dense(16, "relu", name="alive"),
            layers.Dense(
                16, "relu", bias_initializer=keras.initializers.Constant(-1e3), name="dead"
            ),
            layers.Dense(1, name="guess"),
        ]
        model = keras.Sequential(stack)
        # Of Adam's steps each is about as large as the rate.
        model.compile(keras.optimizers.Adam(10.0), "mse")
    signals = [dw.activations(), dw.gradients(), dw.updates(), dw.inputs()]
    watch = dw.Watch(tmp_path / "run.zarr", signals=signals, window=8)
    model.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=2, callbacks=[watch])
    run = dw.open_run(tmp_path / "run.zarr")
    assert run.summary() in capsys.readouterr().out
    print(run.summary())
    found = {(each.kind, each.signal): each for each in run.findings()}
    dead = found["dead", "activation/dead"]
    assert dead.severity == "warning"
    assert dead.text.startswith("16 of 16 units of activation/dead were zero for the whole")
    assert ("skewed_inputs", "input") in found
    # What follows from it is told with it, and is no finding of its own.
    assert {each.kind for each in dead.follows} == {"no_gradient", "update_ratio"}
    assert all(each.brief in dead.text for each in dead.follows)
    assert not any(kind == "no_gradient" for kind, _ in found)
    assert_kept(run)


def test_a_loop_that_goes_on_is_given_no_all_clear(tmp_path):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="a")])
    x = tf.random.stateless_normal((4, 3), seed=(1, 2))
    with dw.watching(model, None, tmp_path / "run.zarr", window=2) as watch:
        for _ in range(4):
            with watch.step(x):
                model(x)
            watch.after_step()
        going_on = watch.summary()
    assert "The run was not closed: it is still being written" in going_on
    assert "No row was lost" not in going_on
    assert watch.summary() == dw.open_run(tmp_path / "run.zarr").summary()
    assert "No row was lost." in watch.summary()
    assert_kept(dw.open_run(tmp_path / "run.zarr"))
