"""Whether replicas compute the same of one batch: a faulty device is named, and no other."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import fit, same_weights, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import ConfigError, NothingToWatchError, UnwatchableError
from distwatch.training.taps.canary import Canary, beyond_noise

layers = keras.layers

pytestmark = pytest.mark.filterwarnings(
    "ignore:this training runs into known faults of Keras:distwatch.errors.KnownTrapWarning"
)

ROWS, BATCH = 96, 16
X, Y = unlike_rows(ROWS)
Y = Y.astype("float32")[:, None] + 3.0
FEW = X[:5] + 0.5


def on_replica(number, then, otherwise):
    """One of two tensors, by the replica that computes it."""
    context = tf.distribute.get_replica_context()
    if context is None:  # Keras builds the model outside of replicas.
        return otherwise
    return tf.where(tf.equal(context.replica_id_in_sync_group, number), then, otherwise)


@keras.saving.register_keras_serializable("tests")
class Faulty(layers.Dense):
    """A dense layer that one replica computes a little wrongly: its output, or its gradient."""

    def __init__(self, units, replica, where, by=1e-3, **kwargs):
        super().__init__(units, **kwargs)
        self.replica, self.where, self.by = replica, where, by

    def call(self, x):
        y = super().call(x)
        if self.where == "forward":
            return on_replica(self.replica, y + self.by, y)

        @tf.custom_gradient
        def passed_on(value):
            def back(gradient):
                return on_replica(self.replica, gradient * (1 + self.by), gradient)

            return tf.identity(value), back

        return passed_on(y)


class Noisy(layers.Layer):
    """Never computes the same twice, as sums of atomics on a GPU; one replica is far off."""

    def __init__(self, noise_on=None, off_on=None, **kwargs):
        super().__init__(**kwargs)
        self.noise_on, self.off_on = noise_on, off_on

    def call(self, x):
        noisy = x * (1 + 1e-6 * tf.random.uniform(tf.shape(x)))
        if self.noise_on is not None:
            noisy = on_replica(self.noise_on, noisy, x)
        return noisy if self.off_on is None else on_replica(self.off_on, noisy * 1.01, noisy)


def trained(path, replicas, *middle, signals=None, epochs=1):
    keras.utils.clear_session()
    keras.utils.set_random_seed(5)
    with strategy_over(replicas).scope():
        model = keras.Sequential(
            [
                keras.Input((12,)),
                layers.Dense(9, "tanh", name="first", activity_regularizer="l2"),
                *middle,
                layers.BatchNormalization(name="norm"),
                layers.Dropout(0.3, name="drop"),
                layers.Dense(1, name="last"),
            ]
        )
        model.compile(keras.optimizers.Adam(0.01, use_ema=True), "mse", metrics=["mae"])
    signals = signals or [dw.canary(FEW, every=2)]
    history = fit(model, X, Y, dw.Watch(path, signals=signals), batch=BATCH, epochs=epochs)
    return model, history.history


def warned(path):
    return [each for each in dw.open_run(path).findings() if each.rule == "Canary"]


@pytest.mark.fast_cases("backward")
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_the_replica_that_computes_otherwise_is_named(tmp_path, where):
    path = tmp_path / "run.zarr"
    trained(path, 4, Faulty(7, 2, where, name="middle"))
    (finding,) = warned(path)
    assert (finding.severity, finding.kind, finding.replica) == ("warning", "canary", 2)
    assert (finding.step, finding.last_step) == (0, 4)
    assert "otherwise than the others from the same batch, weights and seeds" in finding.text
    about = {finding.signal, *finding.others}
    # What lies before the fault has its gradient from behind it.
    assert {"canary/first/kernel", "canary/middle/kernel"} <= about
    assert ("canary/output" in about) == (where == "forward")
    assert ("canary/last/kernel" in about) == (where == "forward")
    computed = dw.open_run(path).canary()
    assert computed.checksum.dims == ("step", "replica", "computed")
    np.testing.assert_array_equal(computed.step, [0, 2, 4])
    main = computed.sel(computed=finding.signal.partition("/")[2])
    assert float(main.largest.max()) > 0
    assert dw.open_run(path).divergence().cause.values.tolist() == ["", "", "computing", ""]
    kernel = computed.sel(computed="first/kernel")
    assert np.unique(kernel.checksum.sel(replica=[0, 1, 3]).isel(step=0)).size == 1


@pytest.mark.slow
def test_of_two_replicas_it_is_told_that_they_differ(tmp_path):
    trained(tmp_path / "run.zarr", 2, Faulty(7, 1, "forward"))
    (finding,) = warned(tmp_path / "run.zarr")
    assert finding.replica is None
    assert "Replicas 0 and 1 compute the output differently" in finding.text


@pytest.mark.parametrize("checks", [6, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_healthy_training_is_not_accused(tmp_path, checks):
    """Statistics of normalization differ by replica, and dropout draws: neither is a fault."""
    path = tmp_path / "run.zarr"
    steps = ROWS // BATCH
    trained(path, 2, signals=[dw.canary(FEW, every=1)], epochs=-(-checks // steps))
    run = dw.open_run(path)
    assert run.canary().sizes["step"] >= checks
    assert not warned(path)
    # Dropout and weights change from step to step, so these are no constants.
    assert np.unique(run.canary().checksum.sel(computed="output")).size >= checks


def test_it_leaves_the_training_as_it_is(tmp_path):
    signals = [dw.activations(), dw.canary(FEW, every=2)]
    with_canary = trained(tmp_path / "a.zarr", 2, signals=signals, epochs=2)
    without = trained(tmp_path / "b.zarr", 2, signals=[dw.activations()], epochs=2)
    assert same_weights(with_canary[0], without[0])
    assert with_canary[1] == without[1]
    rows = [dw.open_run(tmp_path / name).to_xarray() for name in ("a.zarr", "b.zarr")]
    assert rows[0].equals(rows[1])


@pytest.mark.slow
def test_what_no_replica_computes_twice_alike_is_judged_by_its_own_noise(tmp_path):
    trained(tmp_path / "noisy.zarr", 4, Noisy())
    assert not warned(tmp_path / "noisy.zarr")
    trained(tmp_path / "off.zarr", 4, Noisy(off_on=3))
    assert {each.replica for each in warned(tmp_path / "off.zarr")} == {3}


def summaries(seed=0, replicas=4):
    """Of three signals, with last digits of their own at each computation."""
    rng = np.random.default_rng(seed)
    sizes = np.array([[0, 3.0, 40.0, 2.5], [0, -7.0, 90.0, 4.0], [0, 0.5, 8.0, 1.0]])
    return sizes * (1 + 1e-6 * rng.normal(size=(replicas, 3, 4)))


def test_noise_is_told_from_a_fault():
    one, two = summaries(1), summaries(2)
    assert not beyond_noise(one, two, 2.0**-24).any()
    # Steady, but of another kernel: a few roundings.
    steady = summaries(3)
    assert not beyond_noise(steady, steady, 1e-6).any()
    for column, by in ((0, 1), (1, 0.5), (2, 0.5), (3, 0.5)):
        faulty = one.copy(), two.copy()
        for each in faulty:
            each[2, 1, column] += by
        odd = beyond_noise(*faulty, 2.0**-24)
        assert np.argwhere(odd).tolist() == [[2, 1]]


def test_gradients_are_those_of_the_weights_that_they_are_called_by():
    """In whatever order the model and the canary have them."""
    strategy = strategy_over(2)
    with strategy.scope():
        inner = keras.Sequential([keras.Input((12,)), layers.Dense(7), layers.Dense(3)])
        model = keras.Sequential([keras.Input((12,)), inner, layers.Dense(5)])
    weights = model.trainable_variables[::-1]
    canary = Canary(model, FEW, weights, strategy)
    sizes = [canary.values(i)[1].size for i in range(len(weights) + 1)]
    assert sizes == [len(FEW) * 5, *(int(np.prod(weight.shape)) for weight in weights)]


class Counts(layers.Layer):
    """Writes a variable that Keras knows nothing of."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.calls = tf.Variable(0.0, trainable=False)

    def call(self, x):
        self.calls.assign_add(1.0)
        return x


@pytest.mark.slow
def test_a_model_that_writes_what_keras_does_not_know_is_refused(tmp_path):
    with pytest.raises(UnwatchableError, match="canary: the model changes a variable"):
        trained(tmp_path / "run.zarr", 2, Counts())


class Told(keras.Model):
    """Its layers are told by Keras that it trains, not by its own call."""

    def __init__(self):
        super().__init__()
        self.drop, self.out = layers.Dropout(0.5), layers.Dense(1, name="out")

    def call(self, x, training=None):
        return self.out(self.drop(x))


class Untold(Told):
    """Keras tells layers nothing where the model does not take it, in training neither."""

    def call(self, x):
        return self.out(self.drop(x))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "different"), [(Told, 3), (Untold, 1)])
def test_a_model_of_ones_own_is_run_as_it_is_trained(tmp_path, kind, different):
    keras.utils.set_random_seed(2)
    with strategy_over(2).scope():
        model = kind()
        # Nothing is learnt, so that only dropout makes one look differ from the next.
        model.compile(keras.optimizers.SGD(0.0), "mse")
    signals = [dw.canary(FEW, every=2)]
    fit(model, X, Y, dw.Watch(tmp_path / "run.zarr", signals=signals), batch=BATCH)
    computed = dw.open_run(tmp_path / "run.zarr").canary().checksum.sel(computed="output")
    assert not warned(tmp_path / "run.zarr")
    assert computed.sizes["step"] == 3
    assert np.unique(computed).size == different


@pytest.mark.slow
def test_a_replica_that_alone_is_unsteady_is_named(tmp_path):
    trained(tmp_path / "run.zarr", 4, Noisy(noise_on=1))
    assert {each.replica for each in warned(tmp_path / "run.zarr")} == {1}


@pytest.mark.slow
def test_a_batch_that_the_model_does_not_take_is_refused(tmp_path):
    signals = [dw.canary(np.ones((3, 5), np.float32))]
    with pytest.raises(UnwatchableError, match="cannot be run forward and backward on"):
        trained(tmp_path / "run.zarr", 2, signals=signals)
    assert not (tmp_path / "run.zarr").exists()


def test_one_replica_has_nothing_to_be_compared_with(tmp_path):
    with pytest.raises(NothingToWatchError, match="no other to compare it with"):
        trained(tmp_path / "run.zarr", 1, signals=[dw.canary(FEW)])


def test_a_canary_needs_a_batch():
    with pytest.raises(ConfigError, match="give a batch"):
        dw.canary(None)
    with pytest.raises(ConfigError, match="a canary need data: give them in Python"):
        dw.Watch("run.zarr", signals=[{"canary": True}])
