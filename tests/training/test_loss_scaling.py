"""Losses and gradients of each replica, however the loss is divided by the replicas."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import fit, strategy_over

import distwatch as dw
from distwatch.errors import KnownTrapWarning
from distwatch.training.taps.loss_scaling import DIVIDING, LossScaling

N = 2

#: What is made of a divided and a plain term, and how often it is divided.
MADE_OF = {
    "divided": (lambda d, p: d, 1),
    "plain": (lambda d, p: p, 0),
    "weighted": (lambda d, p: 3.0 * d, 1),
    "by a value of the step": (lambda d, p: d * p, 1),
    "per value of the step": (lambda d, p: d / p, 1),
    "from zero on": (lambda d, p: sum([0.0, d, d]), 1),
    "several": (lambda d, p: tf.reduce_sum(tf.stack([d, -d, tf.cast(d, tf.float32)])), 1),
    "a ratio": (lambda d, p: d / (2.0 * d), 0),
    "a product": (lambda d, p: d * d, 2),
    "mixed": (lambda d, p: d + p, None),
    "with a constant": (lambda d, p: d + 1.0, None),
    "bent": (lambda d, p: tf.exp(d), None),
    "bent elsewhere": (lambda d, p: tf.exp(p), 0),
}


@pytest.mark.parametrize("name", MADE_OF)
def test_what_a_loss_is_made_of_says_how_often_it_is_divided(name):
    make, times = MADE_OF[name]
    with tf.Graph().as_default() as graph:
        scaling = LossScaling(graph, N)
        term, plain = (tf.compat.v1.placeholder(tf.float32, []) for _ in range(2))
        divided = term / N
        scaling.add_divided(divided)
        assert scaling.times_divided(make(divided, plain)) == times


@pytest.mark.slow
def test_deep_and_shared_sums_are_followed_or_unknown_at_once():
    """One that cannot be followed any further is no error of the step that it is in."""
    with tf.Graph().as_default() as graph:
        scaling = LossScaling(graph, N)
        divided = tf.compat.v1.placeholder(tf.float32, ())
        scaling.add_divided(divided)
        shared = divided
        for _ in range(60):  # 2**60 ways through it
            shared = shared + shared
        assert scaling.times_divided(shared) == 1
        deep = divided
        for _ in range(3000):
            deep = deep + divided
        assert scaling.times_divided(deep) is None
        means = tf.reduce_mean(tf.compat.v1.placeholder(tf.float32, (None,)))
        plain = means
        for _ in range(3000):
            plain = plain + means
        scaling.add_gradients([plain], [tf.Variable(1.0)], [divided])
        assert scaling.is_undivided_mean([divided])


def test_a_call_in_a_graph_of_its_own_cannot_be_followed():
    with tf.Graph().as_default() as graph:
        scaling = LossScaling(graph, N)
        loss = tf.compat.v1.placeholder(tf.float32, [])
        assert scaling.times_divided(loss) == 0
        with tf.Graph().as_default():
            scaling.add_divided(tf.constant(1.0))
        assert scaling.times_divided(loss) is None


#: Losses of rows, and whether each is a mean that nobody divided.
ROWS = {
    "mean": (tf.reduce_mean, True),
    "mean of sums": (lambda x: tf.reduce_mean(tf.reduce_sum(x, axis=1)), True),
    "two means": (lambda x: 0.1 * tf.reduce_mean(x) + tf.reduce_mean(x * x), True),
    "sum": (tf.reduce_sum, False),
    "sum of means": (lambda x: tf.reduce_sum(tf.reduce_mean(x, axis=1)), False),
    "mean and sum": (lambda x: tf.reduce_mean(x) + tf.reduce_sum(x), False),
    "divided by hand": (lambda x: tf.reduce_mean(x) / N, False),
    "times its part by hand": (lambda x: tf.reduce_mean(x) * (1.0 / N), False),
    "sum by a batch's size": (lambda x: tf.reduce_sum(x) / 32.0, False),
}


@pytest.mark.parametrize("name", ROWS)
def test_an_undivided_mean_is_known_by_its_graph(name):
    make, undivided = ROWS[name]
    with tf.Graph().as_default() as graph:
        scaling = LossScaling(graph, N)
        loss = make(tf.compat.v1.placeholder(tf.float32, [None, 3]))
        gradient = tf.constant(1.0)
        # What a variable is differentiated for; that of an input is none of the step.
        scaling.add_gradients(loss, [tf.constant(0.0)], [gradient])
        assert scaling.is_undivided_mean([gradient]) is False
        variable = keras.Variable(0.0)
        scaling.add_gradients(loss, [variable], [gradient])
        assert scaling.is_undivided_mean([gradient]) is undivided
        # Something was done with it on the way to the optimizer.
        assert scaling.is_undivided_mean([gradient * 0.5]) is False


@pytest.mark.parametrize(
    ("make", "times"),
    [
        (lambda x: tf.reduce_mean(x) / N, None),
        (lambda x: tf.reduce_mean(x) + 0.5 * tf.reduce_mean(x * x), None),
        (lambda x: tf.reduce_sum(x) * (1.0 / 32.0), None),
        (lambda x: 3.0 * tf.reduce_mean(x), 0),
        (tf.reduce_sum, 0),
        (lambda x: tf.reduce_mean(tf.reduce_sum(x, axis=1) / N), 0),
    ],
)
def test_what_may_be_divided_by_hand_is_unknown(make, times):
    """A half may be a weight, or one of two replicas."""
    with tf.Graph().as_default() as graph:
        scaling = LossScaling(graph, N)
        loss = make(tf.compat.v1.placeholder(tf.float32, [None, 3]))
        assert scaling.times_divided(loss) == times
        gradient = tf.constant(1.0)
        scaling.add_gradients(loss, [keras.Variable(0.0)], [gradient])
        assert scaling.times_divided_gradient(gradient) == times


class Own(keras.Model):
    """Computes its loss by a function of its own."""

    def __init__(self, loss_of=None):
        super().__init__()
        self.o = keras.layers.Dense(1, name="o")
        self._loss_of = loss_of

    def call(self, x):
        return self.o(x)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if self._loss_of is None:
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        return self._loss_of(y, y_pred, super().compute_loss)


class ByHand(Own):
    """Does its steps by itself; the loss is a mean over the replica's rows."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x, training=True) - y))
        variables = self.trainable_variables
        self.optimizer.apply_gradients(
            zip(tape.gradient(loss, variables), variables, strict=True)
        )
        return {"loss": loss}


def rows(number):
    rng = np.random.default_rng(3)
    x = rng.normal(2.0, 1.0, (number, 4)).astype("f")
    return x, (x.sum(1, keepdims=True) * np.linspace(-1, 2, number)[:, None]).astype("f")


def train(store, make, loss, *, number=16, signals=None, scale=None):
    """An epoch of batches of 16.

    Returns the run, each replica's errors and rows in the first step, and the traps named.
    """
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    x, y = rows(number)
    with strategy_over(N).scope():
        model = make()
        model(x[:1])
        model.compile(keras.optimizers.SGD(0.01, loss_scale_factor=scale), loss)
    kernel, bias = map(np.float64, model.get_weights())
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", KnownTrapWarning)
        fit(model, x, y, dw.Watch(store, signals=signals or [dw.loss(), dw.gradients()]))
    error = x[:16] @ kernel + bias - y[:16]
    own = [(error[half], x[half]) for half in (slice(0, 8), slice(8, 16))]
    told = [str(each.message) for each in seen if each.category is KnownTrapWarning]
    return dw.open_run(store), own, [text for text in told if "added up" in text]


def means(own):
    return [np.mean(e**2) for e, _ in own], [2 * x.T @ e / len(e) for e, x in own]


def sums(own):
    return [np.sum(e**2) for e, _ in own], [2 * x.T @ e for e, x in own]


def assert_replicas(run, losses, gradients, step=0):
    path = next(n for n in run.signals if n.startswith("gradient_local/") and "kernel" in n)
    for replica in range(N):
        row = {"step": step, "replica": replica}
        if losses is not None:
            loss = float(run["loss"].per_replica("mean").sel(row))
            assert loss == pytest.approx(losses[replica], rel=1e-5)
        l2 = float(run[path].per_replica("l2").sel(row))
        assert l2 == pytest.approx(np.linalg.norm(gradients[replica]), rel=1e-5)


def plain():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="o")])


def mean_by_hand(y, y_pred, keras_loss):
    return tf.reduce_mean(tf.square(y - y_pred))


def mixed(y, y_pred, keras_loss):
    return keras_loss(y=y, y_pred=y_pred) + tf.reduce_mean(tf.square(y - y_pred))


def test_a_loss_of_kerass_own_is_divided(tmp_path):
    run, own, told = train(tmp_path / "r.zarr", plain, "mse")
    assert_replicas(run, *means(own))
    assert not told
    assert run.info.signals[0].scaled is None


@pytest.mark.slow
def test_a_sum_is_not_divided_and_no_trap(tmp_path):
    loss = keras.losses.MeanSquaredError(reduction="sum")
    run, own, told = train(tmp_path / "r.zarr", plain, loss)
    assert_replicas(run, *sums(own))
    assert not told


def test_a_mean_by_hand_is_not_divided_and_a_trap(tmp_path):
    run, own, told = train(tmp_path / "r.zarr", lambda: Own(mean_by_hand), None)
    assert_replicas(run, *means(own))
    (text,) = told
    assert "2 times that of the whole batch" in text
    # It is: what is applied is the sum of the replicas' gradients.
    applied = float(run["gradient/o/kernel"].merged("l2")[0])
    assert applied == pytest.approx(np.linalg.norm(sum(means(own)[1])), rel=1e-5)


@pytest.mark.slow
def test_a_step_by_hand_has_its_true_gradients_also_where_only_layers_are_watched(tmp_path):
    run, own, told = train(tmp_path / "r.zarr", ByHand, None, signals=[dw.gradients()])
    assert_replicas(run, None, means(own)[1])
    assert len(told) == 1
    _, _, told = train(tmp_path / "two.zarr", ByHand, None, signals=[dw.activations()])
    assert len(told) == 1


def test_what_cannot_be_known_is_recorded_as_it_is_and_said(tmp_path):
    run, own, told = train(tmp_path / "r.zarr", lambda: Own(mixed), "mse")
    losses, gradients = means(own)
    # Half of it is divided by two.
    assert_replicas(run, [1.5 * each for each in losses], [1.5 * each for each in gradients])
    assert not told
    scaled = {signal.name: signal.scaled for signal in run.info.signals}
    assert scaled["loss"] == scaled["gradient_local/o/kernel"] == "unknown"
    assert scaled["gradient/o/kernel"] is None


def test_a_loss_scale_is_undone_whatever_divides(tmp_path):
    run, own, _ = train(tmp_path / "r.zarr", lambda: Own(mean_by_hand), None, scale=64.0)
    assert_replicas(run, *means(own))


def test_a_replica_without_rows_has_no_loss(tmp_path):
    run, _, _ = train(tmp_path / "r.zarr", plain, "mse", number=17)
    counts = run["loss"].per_replica("count").values
    assert counts.tolist() == [[1, 1], [1, 0]]
    losses = run["loss"].per_replica("mean").values
    assert np.isnan(losses[1, 1])
    # Merged over those that have one.
    assert float(run["loss"].merged("mean")[1]) == losses[1, 0] > 0


@pytest.mark.slow
def test_kerass_calls_are_seen_and_nothing_stays_in_their_place(tmp_path):
    """They are private: this fails where Keras or TensorFlow make them otherwise."""
    before = [getattr(module, name) for module, name in DIVIDING] + [tf.GradientTape.gradient]
    weighted = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")

    def all_kinds(y, y_pred, keras_loss):
        per_row = tf.reduce_mean(tf.square(y - y_pred), axis=1)
        averaged = tf.nn.compute_average_loss(per_row, global_batch_size=16)
        return keras_loss(y=y, y_pred=y_pred) + weighted(y, y_pred) + averaged

    run, own, told = train(tmp_path / "r.zarr", lambda: Own(all_kinds), "mse")
    losses, gradients = means(own)
    assert_replicas(run, [3 * each for each in losses], [3 * each for each in gradients])
    assert not told
    assert [getattr(m, n) for m, n in DIVIDING] + [tf.GradientTape.gradient] == before
