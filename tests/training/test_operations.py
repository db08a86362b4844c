"""How many operations watching adds to a step: on a GPU each of them is a kernel to launch."""

import keras
import pytest
import tensorflow as tf
from trainings import fit, unlike_rows

import distwatch as dw


def chain(layers):
    """A model of so many small layers, each with two variables."""
    keras.utils.set_random_seed(6)
    hidden = [keras.layers.Dense(5, activation="tanh") for _ in range(layers)]
    model = keras.Sequential([keras.Input((6,)), *hidden], name=f"chain_of_{layers}")
    model.compile("sgd", "mse")
    return model


def operations_of(layers, folder, signals=None):
    """The operations of a train step as it was traced, with all functions that it reaches."""
    x, _ = unlike_rows(16)
    watch = [dw.Watch(folder / "run.zarr", signals=signals)] if signals else []
    tf.summary.trace_on(graph=True)
    fit(chain(layers), x[:, :6], x[:, :5], *watch)
    with tf.summary.create_file_writer(str(folder)).as_default():
        tf.summary.trace_export("step", step=0)
    (file,) = folder.glob("events*")
    metadata = tf.compat.v1.RunMetadata()
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
            metadata.MergeFromString(value.tensor.string_val[0])
    # What other tests of this process still run is traced, too.
    traced = [nodes_of(each.pre_optimization_graph) for each in metadata.function_graphs]
    own = [nodes for nodes in traced if any(f"chain_of_{layers}_" in name for name in nodes)]
    return max(map(len, own))


def nodes_of(graph):
    """The names of a graph's operations, and of those of its functions."""
    inner = [node.name for function in graph.library.function for node in function.node_def]
    return [*(node.name for node in graph.node), *inner]


@pytest.mark.fast_cases("gradients and updates")
@pytest.mark.parametrize(
    ("signals", "of_each_layer", "most"),
    [
        ([dw.gradients(), dw.updates()], 6, 4.0),
        ([dw.weights()], 2, 4.0),
        ([dw.activations()], 1, 30.0),
    ],
    ids=["gradients and updates", "weights", "activations"],
)
def test_another_signal_adds_few_operations(tmp_path, signals, of_each_layer, most):
    few, many = 6, 18
    added = []
    for layers in (few, many):
        folders = tmp_path / f"{layers}-plain", tmp_path / f"{layers}-watched"
        plain, watched = (operations_of(layers, folders[i], [None, signals][i]) for i in (0, 1))
        added.append(watched - plain)
    assert (added[1] - added[0]) / (of_each_layer * (many - few)) <= most
