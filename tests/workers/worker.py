"""One of two workers that train together, as a process of its own.

    TF_CONFIG=... python worker.py HOW FOLDER

HOW is ``loop`` (a strategy.run loop), ``fit`` (the fixed fit), ``unfixed`` (fit as it is),
``killed`` (the loop, in which worker 1 is killed at step KILLED_AT), ``again`` (two fits,
in a folder of runs) or ``stopped`` (a long fit, whose schedules change, and which a rule of
worker 1 stops). What the worker saw is left in FOLDER.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parents[1]))

from trainings import Ear, unlike_rows

import distwatch as dw
from distwatch.compat import multiworker_fit
from distwatch.findings import WARNING, Finding
from distwatch.training import acting

layers = keras.layers

#: A last batch of 10 is there, so that workers have fewer rows than before.
ROWS, BATCH, EPOCHS, WINDOW = 90, 16, 2, 4
KILLED_AT = 7

WATCHED = {
    "signals": (dw.activations(), dw.gradients(), dw.inputs(), dw.loss()),
    "window": WINDOW,
    # What a killed worker leaves must not depend on how slow the machine is.
    "drain_every": None,
}


def number() -> int:
    return json.loads(os.environ["TF_CONFIG"])["task"]["index"]


def make_model(strategy):
    keras.utils.set_random_seed(5)
    ear = Ear(name="ear")
    with strategy.scope():
        model = keras.Sequential(
            [keras.Input((12,)), layers.Dense(8, "tanh", name="hidden"), ear, layers.Dense(4)]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"])
    return model, ear


def make_data():
    options = tf.data.Options()
    by_element = tf.data.experimental.AutoShardPolicy.DATA
    options.experimental_distribute.auto_shard_policy = by_element
    data = tf.data.Dataset.from_tensor_slices(unlike_rows(ROWS))
    return data.batch(BATCH).with_options(options)


def logs_beside(store):
    return Path(store).parent / "logs"


def rules_beside(store):
    """Each worker writes what it finds of its own replicas."""
    file = Path(store).parent / f"found-{number()}.jsonl"
    return [dw.actions.on("*", do=dw.actions.log_json(file), severity="note")]


def by_fit(strategy, store, how):
    model, ear = make_model(strategy)
    beside = {"tensorboard": logs_beside(store), "rules": rules_beside(store)}
    watch = dw.Watch(store, **beside, **WATCHED)
    with contextlib.nullcontext() if how == "unfixed" else multiworker_fit():
        history = model.fit(
            make_data(),
            epochs=EPOCHS,
            shuffle=False,
            verbose=0,
            callbacks=[watch],
            validation_data=make_data(),
        )
        model.predict(make_data(), verbose=0)
    return model, ear, {"loss": history.history["loss"], "steps": watch.status.committed}


def twice(strategy, store, how):
    """Two fits with one Watch, and one with the path of a run; each worker has a name."""
    sys.modules["__main__"].__file__ = f"script_of_{number()}.py"
    model, ear = make_model(strategy)
    watch, exact = dw.Watch(f"{store.parent}/runs/", **WATCHED), dw.Watch(store, **WATCHED)
    paths = []
    with multiworker_fit():
        for each in (watch, watch, exact, exact):
            model.fit(make_data(), epochs=1, shuffle=False, verbose=0, callbacks=[each])
            paths.append(str(each.path))
    return model, ear, {"paths": paths}


def twenty_batches_on_the_second(run):
    """What worker 1 alone finds."""
    if number() == 1 and run.tables[0].steps >= 20:
        yield Finding("twenty", WARNING, "Twenty batches.", "loss", 19)


class Rarely(keras.callbacks.Callback):
    """Has the inputs looked at at every 7th step, from batch 5 on; counts batches."""

    def __init__(self, watch):
        super().__init__()
        self.watch, self.batches = watch, 0

    def on_train_batch_end(self, batch, logs=None):
        self.batches += 1
        if self.batches == 5:
            self.watch.set("input", every=7)


def stopped(strategy, store, how):
    """A long fit, whose schedules change, and which a rule stops."""
    # So that the rule is asked at each drain, also where the machine is slow.
    acting.MOST_TIME = 1.0
    model, ear = make_model(strategy)
    stops = dw.actions.on(twenty_batches_on_the_second, do=dw.actions.stop())
    watched = {"signals": [dw.loss(), dw.inputs(every=1)], "drain_every": 1e-3}
    watch = dw.Watch(store, rules=stops, window=WINDOW, **watched)
    rarely = Rarely(watch)
    with multiworker_fit():
        model.fit(make_data(), epochs=100, shuffle=False, verbose=0, callbacks=[rarely, watch])
    return model, ear, {"batches": rarely.batches, "stopped": watch.stop_training}


def by_loop(strategy, store, how):
    model, ear = make_model(strategy)
    optimizer = model.optimizer
    losses = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=None)
    data = strategy.experimental_distribute_dataset(make_data())
    with dw.watching(
        model,
        optimizer,
        store,
        strategy=strategy,
        tensorboard=logs_beside(store),
        rules=rules_beside(store),
        **WATCHED,
    ) as watch:

        @watch.wrap
        def train_step(x, y):
            with tf.GradientTape() as tape:
                each = losses(y, model(x, training=True))
                loss = tf.nn.compute_average_loss(each, global_batch_size=BATCH)
            watch.loss(tf.reduce_mean(each))
            weights = model.trainable_variables
            optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))

        @tf.function
        def distributed(x, y):
            strategy.run(train_step, args=(x, y))

        step = 0
        for epoch in range(EPOCHS):
            watch.begin_epoch(epoch)
            for x, y in data:
                if how == "killed" and number() == 1 and step == KILLED_AT:
                    os.kill(os.getpid(), signal.SIGKILL)
                distributed(x, y)
                watch.after_step()
                step += 1
    return model, ear, {"loss": [], "steps": watch.status.committed}


def main(how: str, folder: Path) -> None:
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    ways = {"fit": by_fit, "unfixed": by_fit, "again": twice, "stopped": stopped}
    train = ways.get(how, by_loop)
    told = folder / f"worker-{number()}.json"
    try:
        model, ear, said = train(strategy, folder / "run.zarr", how)
    except Exception as error:
        told.write_text(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        # Without TensorFlow's own end, which waits for a worker that may be gone.
        sys.stderr.flush()
        os._exit(1)
    told.write_text(json.dumps({"error": None, **said}))
    weights = {f"weight_{i}": w for i, w in enumerate(model.get_weights())}
    recorded = {
        f"heard_{replica}_{i}": batch
        for replica, batches in ear.recorded.items()
        for i, batch in enumerate(batches)
    }
    np.savez(folder / f"worker-{number()}.npz", **weights, **recorded)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
