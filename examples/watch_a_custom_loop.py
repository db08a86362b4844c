"""What do two models that learn together, in a loop of one's own, do to each other?

    python examples/watch_a_custom_loop.py [RUN]

A teacher learns to tell benign from malignant tumours, and in the same step a smaller student
learns to say what the teacher says. There is no `fit`: the loop calls `strategy.run`, and
`dw.watching` hears both models, both optimizers and both losses in it, on two replicas.

Look at the losses: the student's cannot settle before the teacher's does. And at how far the
kernels went: the updates of all steps add up to the way from the first weight to the last one,
so no step of the loop was missed.
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

layers, losses = keras.layers, keras.losses

REPLICAS, BATCH, EPOCHS = 2, 64, 6

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


def train(store: str) -> dict[str, float]:
    """Train both; returns how far each first kernel's mean went, by the weights themselves."""
    keras.utils.set_random_seed(3)
    strategy = mirrored(REPLICAS)  # on GPUs: tf.distribute.MirroredStrategy()
    with strategy.scope():
        models = [make_model("teacher", 32), make_model("student", 2)]
        optimizers = [keras.optimizers.Adam(0.003), keras.optimizers.Adam(0.01)]
    truth = losses.BinaryCrossentropy(reduction=None)

    def learn(model, optimizer, x, wanted):
        with tf.GradientTape() as tape:
            said = model(x, training=True)
            each = truth(wanted, said)
            loss = tf.nn.compute_average_loss(each, global_batch_size=BATCH)
        weights = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        watch.loss(tf.reduce_mean(each))  # the first is named loss, the second loss#1
        return said

    before = [model.layers[0].kernel.numpy() for model in models]
    with dw.watching(
        models, optimizers, store, strategy=strategy, signals=SIGNALS, overwrite=True
    ) as watch:

        @watch.wrap
        def train_step(x, y):
            verdict = learn(models[0], optimizers[0], x, y)
            learn(models[1], optimizers[1], x, tf.stop_gradient(verdict))

        @tf.function
        def step_on_all_replicas(x, y):
            strategy.run(train_step, args=(x, y))

        data = strategy.experimental_distribute_dataset(batches())
        for epoch in range(EPOCHS):
            watch.begin_epoch(epoch)
            for x, y in data:
                step_on_all_replicas(x, y)
                watch.after_step()
    after = [model.layers[0].kernel.numpy() for model in models]
    return {
        m.name: float(np.mean(b - a)) for m, a, b in zip(models, before, after, strict=True)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", nargs="?", default="runs/loop.zarr", help="is written anew")
    store = parser.parse_args().run
    went = train(store)

    run = dw.open_run(store)
    print(run.summary())
    for name, signal in (("teacher", "loss"), ("student", "loss#1")):
        loss = run[signal].merged("mean").groupby("epoch").mean()
        print(f"loss of the {name}:", *(f"{value:.3f}" for value in loss.values))
    for name, distance in went.items():
        told = float(run[f"update/{name}/hidden/kernel"].merged("mean").sum())
        print(f"{name}'s hidden kernel went {distance:+.6f}; its updates: {told:+.6f}")


if __name__ == "__main__":
    main()
