"""How do two models that learn together in a custom loop affect each other?

    python examples/watch_a_custom_loop.py [RUN]

A teacher learns to distinguish benign from malignant tumours, and in the same step a smaller
student learns to predict the teacher's output. There is no `fit`: the loop calls
`strategy.run`, and `dw.watching` observes both models, both optimizers and both losses, on two
replicas.

Look at the losses: the student's cannot settle before the teacher's does. Then look at how far
the kernels moved: the updates of all steps add up to the difference between the last weight and
the first one, so no step of the loop was missed.
"""

from __future__ import annotations

import argparse

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import StandardScaler

import distwatch as dw
from distwatch.testing import mirrored

layers = keras.layers

BATCH, EPOCHS = 64, 6
CROSS_ENTROPY = keras.losses.BinaryCrossentropy(reduction=None)

SIGNALS = [dw.activations(), dw.updates("*/kernel"), dw.loss()]


def make_model(name: str, units: int) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((30,)),
            layers.Dense(units, activation="relu", name="hidden"),
            layers.Dense(1, activation="sigmoid", name="malignant"),
        ],
        name=name,
    )


def batches() -> tf.data.Dataset:
    x, y = load_breast_cancer(return_X_y=True)
    x = StandardScaler().fit_transform(x).astype("float32")
    y = (1 - y[:, None]).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=3)
    return data.batch(BATCH, drop_remainder=True)


def learn(model, optimizer, x, wanted) -> tuple[tf.Tensor, tf.Tensor]:
    """One step of one model on one replica: its output, and its loss there."""
    with tf.GradientTape() as tape:
        output = model(x, training=True)
        each = CROSS_ENTROPY(wanted, output)
        loss = tf.nn.compute_average_loss(each, global_batch_size=BATCH)
    weights = model.trainable_variables
    optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
    return output, tf.reduce_mean(each)


def train(store: str) -> dict[str, float]:
    """Train both; returns how far the mean of each hidden kernel went, by its weights."""
    keras.utils.set_random_seed(3)
    strategy = mirrored(2)  # on GPUs: tf.distribute.MirroredStrategy()
    with strategy.scope():
        models = teacher, student = make_model("teacher", 32), make_model("student", 2)
        optimizers = keras.optimizers.Adam(0.003), keras.optimizers.Adam(0.01)
    before = {model.name: model.layers[0].kernel.numpy() for model in models}

    options = {"strategy": strategy, "signals": SIGNALS, "overwrite": True}
    with dw.watching(models, optimizers, store, **options) as watch:

        @watch.wrap
        def train_step(x, y):
            verdict, loss = learn(teacher, optimizers[0], x, y)
            watch.loss(loss)  # the first one of a step is called loss, the second loss#1
            _, loss = learn(student, optimizers[1], x, tf.stop_gradient(verdict))
            watch.loss(loss)

        @tf.function
        def step_on_all_replicas(x, y):
            strategy.run(train_step, args=(x, y))

        data = strategy.experimental_distribute_dataset(batches())
        for epoch in range(EPOCHS):
            watch.begin_epoch(epoch)
            for x, y in data:
                step_on_all_replicas(x, y)
                watch.after_step()

    after = {model.name: model.layers[0].kernel.numpy() for model in models}
    return {name: float(np.mean(after[name] - before[name])) for name in before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "run", nargs="?", default="runs/loop.zarr", help="replaced if it exists"
    )
    store = parser.parse_args().run
    went = train(store)

    run = dw.open_run(store)
    print(run.summary())
    for name, signal in (("teacher", "loss"), ("student", "loss#1")):
        loss = run[signal].merged("mean").groupby("epoch").mean()
        print(f"loss of the {name}:", *(f"{value:.3f}" for value in loss.values))
    for name, distance in went.items():
        updates = float(run[f"update/{name}/hidden/kernel"].merged("mean").sum())
        print(f"{name}'s hidden kernel went {distance:+.6f}; its updates: {updates:+.6f}")


if __name__ == "__main__":
    main()
