"""What stateful RNN layers hold for the next batch is a signal on each replica."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import fit, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import NothingToWatchError, UnknownSignalError

ROWS, STEPS = 16, 3

#: That states differ between replicas is a known trap; here it is what is looked at.
pytestmark = pytest.mark.filterwarnings("ignore::distwatch.errors.KnownTrapWarning")


class Held(keras.callbacks.Callback):
    """Reads the states of a layer after each step: (step, state, replica) arrays."""

    def __init__(self, layer, replicas):
        super().__init__()
        self.layer, self.replicas, self.found = layer, replicas, []

    def on_train_batch_end(self, batch, logs=None):
        self.found.append([self._on_replicas(each.value) for each in self.layer.states])

    def _on_replicas(self, variable):
        values = variable.values if self.replicas > 1 else [variable]
        return [value.numpy() for value in values]


def remembering(replicas):
    keras.utils.clear_session()
    keras.utils.set_random_seed(5)
    with strategy_over(replicas).scope():
        memory = keras.layers.LSTM(3, stateful=True, name="memory")
        model = keras.Sequential(
            [keras.Input((6, 5), batch_size=ROWS // replicas), memory, keras.layers.Dense(4)]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss)
    return model, memory


@pytest.mark.fast_cases("2")
@pytest.mark.parametrize("replicas", [1, 2])
def test_they_are_what_the_layer_holds_after_each_step(tmp_path, replicas):
    model, memory = remembering(replicas)
    held = Held(memory, replicas)
    x, y = unlike_rows(ROWS * STEPS, (6, 5))
    watch = dw.Watch(tmp_path / "run.zarr", signals=[dw.states()])
    fit(model, x, y, watch, held, batch=ROWS)
    run = dw.open_run(tmp_path / "run.zarr")
    assert set(run.signals) == {"state/memory:0", "state/memory:1"}
    for number in range(2):
        rows = run[f"state/memory:{number}"]
        wanted = [[values.mean() for values in step[number]] for step in held.found]
        assert np.ptp(wanted) > 0.01
        np.testing.assert_allclose(rows.per_replica("mean"), wanted, rtol=1e-5)
        assert (rows.per_replica("count") == ROWS // replicas * 3).all()


def test_against_the_step_before_they_are_changes(tmp_path):
    model, memory = remembering(1)
    held = Held(memory, 1)
    x, y = unlike_rows(ROWS * STEPS, (6, 5))
    signals = [dw.states("memory", reference="previous")]
    fit(model, x, y, dw.Watch(tmp_path / "run.zarr", signals=signals), held, batch=ROWS)
    largest = dw.open_run(tmp_path / "run.zarr")["state/memory:0"].per_replica("max")
    first = [step[0][0] for step in held.found]
    wanted = [np.nan] + [(b - a).max() for a, b in itertools.pairwise(first)]
    np.testing.assert_allclose(largest[:, 0], wanted, rtol=1e-5)


def test_a_model_without_any_has_nothing_to_watch(tmp_path):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, name="dense")])
    model.compile("sgd", "mse")
    x, y = np.ones((8, 5)), np.ones((8, 4))
    with pytest.raises(NothingToWatchError, match="no stateful RNN layer"):
        fit(model, x, y, dw.Watch(tmp_path / "run.zarr", signals=[dw.states()]))
    with pytest.raises(UnknownSignalError):
        fit(model, x, y, dw.Watch(tmp_path / "run.zarr", signals=[dw.states("dense")]))
    assert tf.io.gfile.listdir(str(tmp_path)) == []
