"""Whether the replicas' copies of variables are equal: every planted difference is named."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import fit, same_weights, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import NothingToWatchError, UnwatchableError, UnwatchedWarning
from distwatch.findings import Digest
from distwatch.store import StoredRun

layers = keras.layers

# These models run into known faults of Keras on several replicas, and a Watch says so.
pytestmark = pytest.mark.filterwarnings(
    "ignore:this training runs into known faults of Keras:distwatch.errors.KnownTrapWarning"
)

ROWS, BATCH = 96, 16


def adam_with_ema():
    return keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9)


def model_over(replicas, *, optimizer=adam_with_ema, spe=1, seed=3, policy=None):
    """Small, and with all kinds of what replicas hold copies of, and of what they do not."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(seed)
    strategy = strategy_over(replicas)
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((12,)),
                layers.Dense(9, "relu", name="first", dtype=policy),
                layers.BatchNormalization(name="norm"),
                layers.Dropout(0.2, name="drop"),
                layers.Dense(5, name="second", dtype=policy),
                layers.Dense(1, name="last", dtype="float32"),
            ]
        )
        model.compile(optimizer(), "mse", steps_per_execution=spe, weighted_metrics=["mae"])
    return model


def data():
    x, y = unlike_rows(ROWS)
    return x, y.astype("float32")[:, None] + 3.0


def copies_of(model, path):
    """The replicas' copies of a weight, a seed or what the optimizer keeps."""
    named = {each.path.removeprefix("sequential/"): each for each in model.variables}
    named |= {each.path: each for each in model.optimizer.variables}
    named |= {
        f"{layer.name}/{each.state.name}": each.state
        for layer in model.layers
        for each in layer._seed_generators
    }
    return named[path].value.values


def bits_of(values):
    return values.reshape(-1).view(np.int32 if values.itemsize == 4 else np.int64)


def flipped(*places):
    """Flip a bit of each of some elements."""

    def fault(values, _):
        for element, bit in places:
            bits = bits_of(values)
            bits[element % len(bits)] ^= np.array(1, bits.dtype) << bit

    return fault


def signs(values, _):
    """Of an even number of elements."""
    bits_of(values)[1:4:2] ^= np.int32(-(2**31))


def negated(values, _):
    values *= -1


def strided(values, _):
    values.reshape(-1)[::3] += 0.25


def stuck(values, _):
    values.reshape(-1)[2:7] = 1.0


def stale(values, before):
    """What it was a step ago: a copy that was not written, or an update that was skipped."""
    values[...] = before


FAULTS = {
    "one bit": flipped((1, 0)),
    "several bits": flipped((0, 3), (2, 17), (3, 30)),
    "signs": signs,
    "negated": negated,
    "strided": strided,
    "stuck": stuck,
    "stale": stale,
}


class Plant(keras.callbacks.Callback):
    """Changes one replica's copy of a variable once, when a step was done."""

    def __init__(self, fault, path, replica, step):
        super().__init__()
        self._fault, self._path, self._replica, self._step = fault, path, replica, step
        self._before = None

    def on_train_batch_end(self, batch, logs=None):
        copy = copies_of(self.model, self._path)[self._replica]
        now = copy.numpy()
        if batch == self._step:
            changed = now.copy()
            FAULTS[self._fault](changed, self._before)
            assert changed.tobytes() != now.tobytes()
            copy.assign(changed)
        self._before = now


def trained(tmp_path, model, *callbacks, every=2, epochs=2, name="run.zarr", **options):
    """A training of 12 steps, watched."""
    watch = dw.Watch(tmp_path / name, signals=[dw.desync(every=every)], **options)
    # The Watch looks before a fault is planted: it is seen at the next look.
    fit(model, *data(), watch, *callbacks, batch=BATCH, epochs=epochs)
    return dw.open_run(tmp_path / name)


def warned(run):
    return [finding for finding in run.findings() if finding.severity == "warning"]


CASES = [
    ("one bit", "first/kernel", 4, 2),
    ("several bits", "second/bias", 2, 1),
    ("signs", "first/kernel", 4, 1),
    ("negated", "second/kernel", 4, 3),
    ("strided", "adam/first_kernel_velocity", 4, 0),
    ("stuck", "adam/second_kernel_momentum", 2, 0),
    ("stale", "last/kernel", 4, 1),
]


def planted(tmp_path, fault, path, replicas, replica):
    """A fault after step 3, looked for at every second step."""
    model = model_over(replicas)
    # An optimizer's paths hold the layers' of the model.
    real = path.replace("adam/", "adam/sequential_")
    with model.distribute_strategy.scope():
        model.optimizer.build(model.trainable_variables)
    run = trained(tmp_path, model, Plant(fault, real, replica, 3))
    found = [finding for finding in warned(run) if finding.kind == "desync"]
    names = {name for each in found for name in (each.signal, *each.others)}
    return found, f"desync/{real}", names


@pytest.mark.fast_cases("one bit-*", "strided-*")
@pytest.mark.parametrize(("fault", "path", "replicas", "replica"), CASES, ids=str)
def test_a_difference_is_named_at_the_next_look(tmp_path, fault, path, replicas, replica):
    found, signal, names = planted(tmp_path, fault, path, replicas, replica)
    assert signal in names
    assert min(each.step for each in found) == 4
    if replicas > 2:
        assert {each.replica for each in found} == {replica}
        assert f"on replica {replica} " in found[0].text
    else:
        assert {each.replica for each in found} == {None}
        assert "on replicas 0 and 1 differ" in found[0].text


@pytest.mark.slow
def test_how_large_a_difference_is(tmp_path):
    model = model_over(4)

    class Add(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            copy = copies_of(self.model, "first/kernel")[2]
            values = copy.numpy()
            values[0, :3] += [0.5, -2.0, 0.25]
            if batch == 3:
                copy.assign(values)

    run = trained(tmp_path, model, Add(), epochs=1)
    (found,) = [each for each in warned(run) if each.signal == "desync/first/kernel"]
    assert (found.kind, found.step, found.replica) == ("desync", 4, 2)
    assert "at step 4, the last that was compared, in 3 of 108 elements, by up to 2" in (
        found.text
    )
    here = run.copies().sel(step=4, variable="first/kernel")
    np.testing.assert_array_equal(here["differing"], [np.nan, np.nan, 3, np.nan])
    np.testing.assert_allclose(here["largest"].values[2], 2.0, rtol=1e-5)
    assert len(set(here["checksum"].values)) == 2
    assert run.divergence().cause.values.tolist() == ["", "", "weights", ""]


@pytest.mark.slow
def test_a_difference_that_is_gone_again(tmp_path):
    class Repair(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            own, other = copies_of(self.model, "drop/seed_generator_state")
            if batch == 0:
                own.assign(own.numpy() + 1)
            if batch == 3:
                own.assign(other.numpy())

    run = trained(tmp_path, model_over(2), Repair(), every=1, epochs=1)
    (found,) = warned(run)
    assert found.signal == "desync/drop/seed_generator_state"
    assert "differ from step 1 to step 3, and not after it, by how much is not known" in (
        found.text
    )


def scaled_adam():
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=8.0)


HEALTHY = {
    "adam and ema": adam_with_ema,
    "sgd": lambda: keras.optimizers.SGD(0.01, momentum=0.9, global_clipnorm=1.0),
    "scaled": scaled_adam,
}


@pytest.mark.fast_cases("scaled")
@pytest.mark.parametrize("kind", HEALTHY)
def test_a_healthy_training_agrees(tmp_path, kind):
    spe = 3 if kind == "sgd" else 1
    policy = "mixed_float16" if kind == "scaled" else None
    model = model_over(2, optimizer=HEALTHY[kind], spe=spe, policy=policy)
    run = trained(tmp_path, model, every=1)
    assert not warned(run)
    checksums = run.copies()["checksum"]
    variables = [str(name) for name in checksums["variable"].values]
    assert {"first/kernel", "norm/gamma", "drop/seed_generator_state"} <= set(variables)
    assert any(name.endswith("/iteration") for name in variables)
    slots = {"adam and ema": 3, "sgd": 1, "scaled": 2}
    assert sum("first_kernel" in name for name in variables) == slots[kind]
    assert list(checksums.step.values) == list(range(spe - 1, 12, spe))
    # What is trained changes at every step, and on both replicas alike.
    kernel = checksums.sel(variable="first/kernel")
    assert len(np.unique(kernel)) == len(kernel.step)
    assert f"copies of {len(variables)} variables were equal, bit for bit, at all" in (
        run.summary()
    )


def test_what_differs_by_design_is_listed(tmp_path):
    run = trained(tmp_path, model_over(2), epochs=1)
    why = run.unwatched
    assert {name for name in why if name.startswith("desync: ")} == {
        "desync: norm/moving_mean",
        "desync: norm/moving_variance",
        "desync: metrics",
    }
    assert "from that replica's rows" in why["desync: norm/moving_mean"]


def test_it_is_part_of_the_default_of_several_replicas(tmp_path):
    x, y = data()
    for replicas, there, epochs in ((2, True, 17), (1, False, 1)):
        watch = dw.Watch(tmp_path / f"{replicas}.zarr")
        fit(model_over(replicas), x, y, watch, batch=BATCH, epochs=epochs)
        run = dw.open_run(tmp_path / f"{replicas}.zarr")
        steps = [0, 100] if there else []
        assert list(run.copies()["step"].values if there else []) == steps
        assert bool(run.copies().sizes["variable"]) is there
        # They are no signals, and change no dataset of those.
        assert not [name for name in run.signals if name.startswith("desync")]
        assert len(run.to_xarray().step) == 6 * epochs
        assert not [name for name in run.unwatched if "one replica" in run.unwatched[name]]


@pytest.mark.slow
def test_asked_for_where_there_is_nothing_to_compare(tmp_path):
    x, y = data()
    with pytest.warns(UnwatchedWarning, match="there is one replica, so there are no copies"):
        fit(model_over(1), x, y, dw.Watch(tmp_path / "a.zarr", signals=["*", dw.desync()]))
    assert "desync" in dw.open_run(tmp_path / "a.zarr").unwatched
    with pytest.raises(NothingToWatchError, match="there is one replica"):
        fit(model_over(1), x, y, dw.Watch(tmp_path / "b.zarr", signals=[dw.desync()]))
    named = dw.desync("norm/moving_mean")
    with pytest.raises(UnwatchableError, match="from that replica's rows"):
        fit(model_over(2), x, y, dw.Watch(tmp_path / "c.zarr", signals=[named]))


@pytest.mark.slow
def test_patterns_choose_variables(tmp_path):
    watch = dw.Watch(tmp_path / "run.zarr", signals=[dw.desync(["first/*", "adam/iter*"])])
    fit(model_over(2), *data(), watch)
    names = dw.open_run(tmp_path / "run.zarr").copies()["variable"].values
    assert list(names) == ["first/kernel", "first/bias", "adam/iteration"]


def test_training_comes_out_the_same(tmp_path):
    x, y = data()
    alone = model_over(2)
    fit(alone, x, y, batch=BATCH, epochs=2)
    watched = model_over(2)
    run = trained(tmp_path, watched, every=1)
    assert len(run) == 12
    assert same_weights(alone, watched)
    for a, b in zip(alone.optimizer.variables, watched.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.slow
def test_a_resumed_run_goes_on(tmp_path):
    model = model_over(2)
    trained(tmp_path, model, epochs=1)
    run = trained(tmp_path, model, epochs=1, resume=True)
    assert list(run.copies()["step"].values) == [0, 2, 4, 6, 8, 10]


@pytest.mark.slow
def test_a_run_from_before_is_resumed_with_it(tmp_path):
    x, y = data()
    model = model_over(2)
    fit(model, x, y, dw.Watch(tmp_path / "run.zarr", signals=["*"]), batch=BATCH)
    both = dw.Watch(tmp_path / "run.zarr", signals=["*", dw.desync(every=2)], resume=True)
    fit(model, x, y, both, batch=BATCH)
    run = dw.open_run(tmp_path / "run.zarr")
    assert list(run.to_xarray().step.values) == list(range(12))
    assert not warned(run)


@pytest.mark.slow
def test_train_on_batch_and_loops(tmp_path):
    x, y = data()
    watch = dw.Watch(
        tmp_path / "a.zarr", signals=[dw.desync(every=1)], phases=["train_on_batch"]
    )
    model = model_over(2)
    with watch.attached(model):
        for _ in range(3):
            model.train_on_batch(x, y)
    assert list(dw.open_run(tmp_path / "a.zarr").copies()["step"].values) == [0, 1, 2]

    model = model_over(2)
    strategy = model.distribute_strategy
    optimizer = model.optimizer
    with strategy.scope():
        optimizer.build(model.trainable_variables)
    watching = dw.watching(
        model, optimizer, tmp_path / "b.zarr", strategy=strategy, signals=[dw.desync(every=2)]
    )
    with watching as watch:

        @tf.function
        @watch.wrap
        def step(batch):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(model(batch, training=True) ** 2) / 2
            gradients = tape.gradient(loss, model.trainable_variables)
            optimizer.apply(gradients, model.trainable_variables)

        for _ in range(4):
            strategy.run(step, args=(x[:8],))
            watch.after_step()
    run = dw.open_run(tmp_path / "b.zarr")
    assert list(run.copies()["step"].values) == [0, 2]
    assert not warned(run)


class Trials(keras.callbacks.Callback):
    """Plants a fault after every step, before the Watch looks; `repaired` undoes it then."""

    def __init__(self, trials, seed):
        super().__init__()
        self._random = np.random.default_rng(seed)
        self._trials = trials
        #: Step, path and replica of each fault.
        self.planted = []
        self._before = {}
        self._undo = None
        self.repaired = keras.callbacks.LambdaCallback(on_train_batch_end=self._repair)

    def on_train_batch_end(self, batch, logs=None):
        kept = [*self.model.trainable_variables, *self.model.optimizer.variables]
        floats = [each for each in kept if each.dtype == "float32" and len(each.shape)]
        if batch and len(self.planted) < self._trials:
            self._plant(batch, floats[self._random.integers(len(floats))])

    def _plant(self, step, variable):
        copies = variable.value.values
        replica = int(self._random.integers(len(copies)))
        # What numpy() gives may be the copy's own memory.
        good = copies[replica].numpy().copy()
        changed = good.copy()
        fault = [*FAULTS][len(self.planted) % len(FAULTS)]
        plant = FAULTS[fault]
        if fault == "one bit":
            plant = flipped((self._random.integers(good.size), int(self._random.integers(32))))
        plant(changed, self._before.get(variable.path, good))
        # An update of nothing, or two flips of one bit, is no fault.
        if changed.tobytes() != good.tobytes():
            copies[replica].assign(changed)
            self._undo = copies[replica], good
            self.planted.append((step, variable.path.removeprefix("sequential/"), replica))

    def _repair(self, batch, logs):
        if self._undo is not None:
            copy, good = self._undo
            copy.assign(good)
            self._undo = None
        kept = [*self.model.trainable_variables, *self.model.optimizer.variables]
        self._before = {each.path: each.numpy().copy() for each in kept}


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 4, 8])
def test_every_trial_is_named(tmp_path, replicas):
    trials = Trials(70, seed=replicas)
    watch = dw.Watch(tmp_path / "run.zarr", signals=[dw.desync(every=1)])
    x, y = unlike_rows(16 * replicas)
    steps = tf.data.Dataset.from_tensors((x, y.astype("float32")[:, None])).repeat(200)
    fit(model_over(replicas), steps, None, trials, watch, trials.repaired, batch=None)
    assert len(trials.planted) == 70
    run = dw.open_run(tmp_path / "run.zarr")
    blocks = list(StoredRun(tmp_path / "run.zarr").blocks())
    for step, path, replica in trials.planted:
        digest = Digest(run.info)
        for block in blocks:
            here = np.flatnonzero(block.step == step)
            digest.observe(block[here])
        found = [each for each in digest.findings() if each.kind == "desync"]
        assert [(each.signal, each.step) for each in found] == [(f"desync/{path}", step)]
        assert found[0].replica == (replica if replicas > 2 else None)


def test_one_comparison_is_told_as_one(tmp_path):
    run = trained(tmp_path, model_over(2), every=100)
    assert "were equal, bit for bit, at the only step that was compared." in run.summary()


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 4])
@pytest.mark.parametrize("kind", HEALTHY)
def test_no_false_alarm_in_many_checks(tmp_path, replicas, kind):
    """Six trainings of 1,700 checks each: 10,200."""
    policy = "mixed_float16" if kind == "scaled" else None
    model = model_over(replicas, optimizer=HEALTHY[kind], policy=policy)
    x, y = unlike_rows(16 * replicas)
    steps = tf.data.Dataset.from_tensor_slices((x, y.astype("float32")[:, None]))
    steps = steps.shuffle(100).batch(8 * replicas, drop_remainder=True).repeat(850)
    watch = dw.Watch(tmp_path / "run.zarr", signals=[dw.desync(every=1)])
    fit(model, steps, None, watch, batch=None)
    run = dw.open_run(tmp_path / "run.zarr")
    assert len(run) == 1700
    assert not warned(run)
    assert "equal, bit for bit, at all 1,700 steps" in run.summary()


@pytest.mark.slow
def test_the_step_has_no_operation_more(tmp_path):
    x, y = data()
    counts = []
    for name, signals in (("a", ["last"]), ("b", ["last", dw.desync(every=1)])):
        model = model_over(2)
        tf.summary.trace_on(graph=True)
        fit(model, x, y, dw.Watch(tmp_path / f"{name}.zarr", signals=signals), batch=BATCH)
        with tf.summary.create_file_writer(str(tmp_path / name)).as_default():
            tf.summary.trace_export("step", step=0)
        counts.append(_largest_graph(tmp_path / name))
    assert counts[0] == counts[1]


def _largest_graph(folder):
    (file,) = folder.glob("events*")
    metadata = tf.compat.v1.RunMetadata()
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
            metadata.MergeFromString(value.tensor.string_val[0])
    return max(
        len(each.pre_optimization_graph.node)
        + sum(len(f.node_def) for f in each.pre_optimization_graph.library.function)
        for each in metadata.function_graphs
    )
