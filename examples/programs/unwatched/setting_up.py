"""What the scripts of this folder have in common: options, replicas, and how they end."""

import argparse

import keras
import tensorflow as tf


def options(description: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--replicas", type=int, default=1, help="virtual CPUs to train on")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--save", metavar="FILE.weights.h5", help="keep what was learned")
    return parser.parse_args()


def strategy_over(replicas: int) -> tf.distribute.Strategy:
    """The default strategy, or a mirrored one over parts of the CPU."""
    if replicas == 1:
        return tf.distribute.get_strategy()
    (cpu,) = tf.config.list_physical_devices("CPU")
    parts = [tf.config.LogicalDeviceConfiguration()] * replicas
    tf.config.set_logical_device_configuration(cpu, parts)
    devices = [f"CPU:{number}" for number in range(replicas)]
    return tf.distribute.MirroredStrategy(devices, tf.distribute.ReductionToOneDevice())


def finish(model: keras.Model, fitted: keras.callbacks.History, save: str | None) -> None:
    """Print the metrics of all epochs, and save weights and optimizers."""
    for name, values in fitted.history.items():
        print(f"{name}: {values}")
    if save:
        model.save_weights(save)
