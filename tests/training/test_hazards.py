"""Silent faults of Keras 3 under MirroredStrategy, each with what helps against it.

Nothing is watched here: these are the grounds of distwatch's list of hazards. When a
later Keras has fixed one of them, its test fails, and the hazard can leave the list.
"""

from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import Ear, fit, strategy_over, unlike_rows

from distwatch.testing import mirrored

pytestmark = pytest.mark.keras

layers, ops, optimizers = keras.layers, keras.ops, keras.optimizers
crossentropy = partial(keras.losses.SparseCategoricalCrossentropy, from_logits=True)
sgd = partial(optimizers.SGD, 1.0)


def built(
    replicas, *before, shape=(12,), optimizer=sgd, loss=crossentropy, kind=keras.Sequential
):
    """A compiled model, the same each time: the layers that `before` makes, then Dense."""
    keras.utils.set_random_seed(5)
    with strategy_over(replicas).scope():
        model = kind([keras.Input(shape), *(make() for make in before), layers.Dense(4)])
        model.compile(optimizer(), loss())
    return model


def step_of(replicas, *, before=(), data=None, fitting=(), **compiled):
    """How one epoch, of one batch unless ``fitting`` says otherwise, moves the weights."""
    x, y = data or unlike_rows(36)
    model = built(replicas, *before, shape=x.shape[1:], **compiled)
    start = model.get_weights()
    fit(model, x, y, **{"batch": len(x)} | dict(fitting))
    moves = zip(model.get_weights(), start, strict=True)
    return np.concatenate([np.ravel(now - then) for now, then in moves])


def apart(a, b):
    return np.abs(np.asarray(a) - np.asarray(b)).max()


def drift(**case):
    """How far the step on two replicas is from the same step on one device."""
    return apart(step_of(1, **case), step_of(2, **case))


def on_replicas(variable):
    return [np.asarray(value) for value in variable.value.values]


class RowMean(layers.Layer):
    def __init__(self, **options):
        super().__init__()
        self.seen = self.add_weight((12,), "zeros", trainable=False, **options)

    def call(self, x, training=None):
        if training:
            self.seen.assign(0.5 * self.seen + 0.5 * ops.mean(x, axis=0))
        return x


norm = partial(layers.BatchNormalization, momentum=0.5)
synchronized = partial(norm, synchronized=True)


@pytest.mark.parametrize(
    ("hazard", "remedy"),
    [(norm, synchronized), (RowMean, partial(RowMean, aggregation="mean"))],
)
def test_statistics_of_layers_differ_between_replicas(hazard, remedy):
    def statistics(replicas, make):
        model = built(replicas, make)
        fit(model, *unlike_rows(64))
        return model.layers[0].non_trainable_variables

    for variable in statistics(2, hazard):
        assert apart(*on_replicas(variable)) > 0.1
    for variable, whole in zip(statistics(2, remedy), statistics(1, remedy), strict=True):
        assert apart(*on_replicas(variable)) == 0
        assert apart(variable.numpy(), whole.numpy()) < 1e-5


def test_states_of_stateful_rnns_are_those_of_a_replicas_own_rows():
    keras.utils.set_random_seed(5)
    with strategy_over(2).scope():
        memory = layers.GRU(4, stateful=True)
        model = keras.Sequential([keras.Input((6, 5), batch_size=16), memory, layers.Dense(4)])
        model.compile(sgd(), crossentropy())
    (states,) = memory.states
    assert apart(*on_replicas(states)) == 0
    x, _ = unlike_rows(32, (6, 5))
    fit(model, x, np.arange(32) % 4, batch=32, epochs=2)
    assert apart(*on_replicas(states)) > 0.1


def tokens():
    """Sequences of which the first half has one token each, and the rest all six."""
    x, _ = unlike_rows(32, (6, 5))
    x[:16, 1:] = 0
    return x, np.random.default_rng(1).integers(0, 4, (32, 6))


def test_synchronized_statistics_differ_all_the_same_under_a_mask():
    model = built(2, layers.Masking, synchronized, shape=(6, 5))
    fit(model, *tokens(), batch=32)
    assert apart(*on_replicas(model.layers[-2].moving_mean)) > 0.1


@pytest.mark.parametrize("make", [norm, synchronized])
def test_one_row_left_over_breaks_batch_normalization(make):
    model = built(2, make)
    history = fit(model, *unlike_rows(31), batch=30)  # the last row: 1 and 0
    assert np.isfinite(history.history["loss"]).all()
    assert np.isfinite(model.layers[0].gamma.numpy()).all() == (make is synchronized)


class ReducedFirst:
    """Gives every replica the mean of all gradients, before an optimizer looks at them."""

    def apply(self, grads, trainable_variables=None):
        context = tf.distribute.get_replica_context()
        reduced = context.all_reduce(tf.distribute.ReduceOp.MEAN, list(grads))
        super().apply(reduced, trainable_variables)


ReducedSGD = type("ReducedSGD", (ReducedFirst, optimizers.SGD), {})
Scaled = optimizers.LossScaleOptimizer
ReducedScaled = type("ReducedScaled", (ReducedFirst, Scaled), {})


@pytest.mark.parametrize(
    ("limit", "value"), [("clipnorm", 0.2), ("clipvalue", 0.05), ("global_clipnorm", 0.3)]
)
def test_gradients_are_clipped_replica_by_replica(limit, value):
    clipped = partial(sgd, **{limit: value})
    whole = step_of(1, optimizer=clipped)
    assert apart(whole, step_of(2, optimizer=clipped)) > 0.02
    halved = partial(ReducedSGD, 1.0, **{limit: value / 2})  # for the mean is half the sum
    assert apart(whole, step_of(2, optimizer=halved)) < 1e-5


@pytest.mark.parametrize(
    ("scaled", "row", "sound"),  # of each 32 rows, the second replica gets the last 16
    [(Scaled, 3, True), (Scaled, 20, False), (ReducedScaled, 20, True)],
)
def test_loss_scaling_looks_at_one_replica_only(scaled, row, sound):
    model = built(
        2,
        partial(layers.Dense, 8, dtype="mixed_float16"),
        optimizer=lambda: scaled(optimizers.SGD(0.01), initial_scale=256.0),
        loss=keras.losses.MeanSquaredError,
    )
    x, _ = unlike_rows(64)
    x[row] = 30_000
    fit(model, x, x[:, :4] / x.max(), batch=32)
    assert all(np.isfinite(weight).all() for weight in model.get_weights()) == sound
    assert model.optimizer.iterations.numpy() == 1  # one of the two steps was skipped


def test_bfloat16_needs_no_loss_scaling():
    kinds = []
    for policy in ("mixed_float16", "mixed_bfloat16", "float32"):
        keras.config.set_dtype_policy(policy)
        kinds.append(type(built(2).optimizer))
    assert kinds == [Scaled, optimizers.SGD, optimizers.SGD]


class ReplicaSeeds(keras.random.SeedGenerator):
    """Seeds that differ from replica to replica."""

    def next(self, ordered=True):
        seed = super().next(ordered)
        context = tf.distribute.get_replica_context()
        number = context.replica_id_in_sync_group if context else 0
        return seed + tf.cast([number * 1_000_003, 0], seed.dtype)


def test_random_layers_draw_the_same_on_all_replicas():
    random = [partial(layers.Dropout, 0.5), partial(layers.GaussianNoise, 1.0)]

    def drawn(generator):
        ear = Ear()
        model = built(2, *random, lambda: ear)
        seeds = [layer.seed_generator for layer in model.layers[:2]]
        for seed in seeds:
            seed.__class__ = generator  # Dropout lets no other be put in its place
        x, y = unlike_rows(8)
        fit(model, np.tile(x, (2, 1)), np.tile(y, 2))
        return [apart(*on_replicas(s.state)) for s in seeds], apart(
            ear.recorded[0], ear.recorded[1]
        )

    assert drawn(keras.random.SeedGenerator) == ([0, 0], 0)
    states, outputs = drawn(ReplicaSeeds)
    assert states == [0, 0]  # the generators themselves stay in step
    assert outputs > 0.5


def test_train_on_batch_gives_every_replica_all_rows():
    x, y = unlike_rows(16)

    def rows_seen(train):
        ear = Ear()
        train(built(2, lambda: ear))
        return {
            number: len(np.concatenate(recorded)) for number, recorded in ear.recorded.items()
        }

    def by_hand(model):
        strategy = model.distribute_strategy
        batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(16)
        batch = next(iter(strategy.experimental_distribute_dataset(batches)))
        tf.function(strategy.run)(model.train_step, (batch,))

    assert rows_seen(lambda model: model.train_on_batch(x, y)) == {0: 16, 1: 16}
    assert rows_seen(by_hand) == {0: 8, 1: 8}


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_batches_of_a_generator_are_lost():
    def batches():
        for number in range(12):
            x, y = unlike_rows(4, seed=number)
            x[:, 0] = number
            yield x, y

    def trained_on(replicas, data):
        ear = Ear()
        built(replicas, lambda: ear).fit(data, verbose=0, shuffle=False)
        return [int(x[0, 0]) for x in ear.recorded[0]]

    everything = list(range(12))
    assert trained_on(1, batches()) == everything
    assert set(trained_on(2, batches())) < set(everything)
    kinds = (tf.TensorSpec((None, 12)), tf.TensorSpec((None,), tf.int64))
    again = tf.data.Dataset.from_generator(batches, output_signature=kinds)
    assert trained_on(2, again) == everything


def test_compiled_outside_the_scope_iterations_count_replicas():
    model = built(2)
    fit(model, *unlike_rows(48))
    assert model.optimizer.iterations.numpy() == 3
    model.compile(sgd(), crossentropy())
    fit(model, *unlike_rows(48))
    assert model.optimizer.iterations.numpy() == 6  # schedules run at double speed


def test_variables_made_outside_the_scope_are_written_by_every_replica():
    strategy = mirrored(2)
    outside = keras.Variable(0.0)
    with strategy.scope():
        inside = keras.Variable(0.0)
    strategy.run(tf.function(lambda: [v.assign_add(1.0) for v in (outside, inside)][:0]))
    assert outside.numpy() == 2
    assert on_replicas(inside) == [1, 1]


class ByRows(keras.Sequential):
    """Weighs the loss of a replica by how many of the batch's rows it has."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if (context := tf.distribute.get_replica_context()) is None:
            return loss
        rows = tf.cast(tf.shape(y)[0], loss.dtype)
        return loss * rows / context.all_reduce(tf.distribute.ReduceOp.MEAN, rows)


uneven = {"data": unlike_rows(37), "fitting": {"batch": 30}}  # the last 7 rows: 4 and 3
leftover = {"data": unlike_rows(31), "fitting": {"batch": 30}}  # the last row: 1 and 0
in_one = {"loss": lambda: lambda *y: ops.mean(crossentropy(reduction=None)(*y))}
masked = {"before": [layers.Masking], "data": tokens()}
slow = partial(optimizers.SGD, 1 / 192)
summed = {"loss": partial(crossentropy, reduction="sum"), "optimizer": slow}
weighed = {"fitting": {"sample_weight": np.linspace(0.1, 3, 36)}}
by_weight = {"loss": partial(crossentropy, reduction="mean_with_sample_weight")}


@pytest.mark.parametrize(
    ("hazard", "remedy"),
    [
        (uneven, uneven | {"kind": ByRows}),
        (leftover, leftover | {"kind": ByRows}),
        (in_one, {}),
        (masked, masked | summed),
        (weighed | by_weight, weighed),
    ],
    ids=["uneven shards", "empty shard", "loss in one number", "mask", "mean by weight"],
)
def test_the_step_is_not_that_of_the_whole_batch(hazard, remedy):
    assert drift(**hazard) > 0.05
    assert drift(**remedy) < 1e-5


def test_what_is_sound():
    assert drift() < 1e-5
    regularized = partial(layers.Dense, 8, kernel_regularizer="l2")
    classes = {"class_weight": {0: 1, 1: 5, 2: 0.2, 3: 2}}
    decaying = partial(sgd, weight_decay=0.1)
    assert drift(before=[regularized], fitting=classes, optimizer=decaying) < 1e-5


def test_logs_of_a_batch_are_means_over_replicas_but_those_of_an_epoch_are_right():
    (x, y), last = unlike_rows(37), {}
    model = built(2, optimizer=partial(optimizers.SGD, 0.0))
    note = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: last.update(logs))
    epoch = fit(model, x, y, note, batch=30).history["loss"]
    right = built(1).evaluate(x, y, verbose=0)
    assert apart(epoch, right) < 1e-5
    assert apart(last["loss"], right) > 1e-4
