"""Law 3 over what Keras has: layers, activations, optimizers, precisions, strategies.

`bit_cells` says which trainings are compared. The fast suite tries a few of them, ``--slow``
a hundred, ``make matrix`` all.
"""

import collections
import contextlib
import warnings

import keras
import numpy as np
import pytest
from bit_cells import OPTIMIZERS, covering_cells, model_of
from tensorflow.python.eager import context
from trainings import fit, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import RoundingWarning

SEED = 20261125
CELLS = list(covering_cells(SEED))
FAST, SLOW = 2, 100

#: What Keras and TensorFlow do with such cells is not our concern, as long as both
#: trainings come out alike.
pytestmark = [
    pytest.mark.filterwarnings("ignore::distwatch.errors.KnownTrapWarning"),
    pytest.mark.filterwarnings("ignore:Gradients do not exist:UserWarning"),
]

BATCH, BATCHES, EPOCHS = 16, 13, 4


def name_of(cell):
    return "-".join(str(value) for value in cell.values())


def is_quick(cell):
    """What takes seconds: to trace it is what takes long."""
    return (
        cell["replicas"] < 4
        and cell["steps"] == 1
        and cell["signals"] != "everything"
        and cell["policy"] == "float32"
        and cell["compiled"] == "graph"
    )


def pytest_generate_tests(metafunc):
    if "cell" in metafunc.fixturenames:
        count = len(CELLS) if metafunc.config.getoption("--whole-matrix") else SLOW
        chosen = CELLS[:: max(1, len(CELLS) // count)][:count]
        quick = [cell for cell in CELLS if is_quick(cell)][:FAST]
        metafunc.parametrize(
            "cell",
            [
                pytest.param(
                    cell,
                    id=name_of(cell),
                    marks=[pytest.mark.slow] * (cell not in quick),
                )
                for cell in [*quick, *(cell for cell in chosen if cell not in quick)][:count]
            ],
        )


@pytest.fixture(autouse=True)
def float32_again():
    yield
    keras.config.set_dtype_policy("float32")


def signals_of(cell):
    activations = dw.activations(None if cell["signals"] == "default" else "*")
    if cell["signals"] != "everything":
        return [activations]
    # Keras adds up the replicas' gradients where they cannot be seen under a loss scale.
    gradients = dw.gradients(applied=cell["policy"] != "mixed_float16")
    return [activations, gradients, dw.updates(), dw.weights(), dw.loss(), dw.inputs()]


@contextlib.contextmanager
def fused_kernels():
    """How many fused kernels the graphs that run have, but for those of the watching."""
    kernels = collections.Counter()
    context.context().enable_graph_collection()
    # Other tests of this process trace graphs, too, and what they collected is kept.
    context.context().export_run_metadata()
    try:
        yield kernels
        graphs = context.context().export_run_metadata().function_graphs
    finally:
        context.context().disable_graph_collection()
    optimized = [graph.post_optimization_graph for graph in graphs]
    nodes = [node for graph in optimized for node in graph.node]
    nodes += [n for graph in optimized for f in graph.library.function for n in f.node_def]
    kernels.update(n.op for n in nodes if "Fused" in n.op and "distwatch" not in n.name)


def trained(cell, *callbacks):
    """Everything that a training ends with, as bytes, and the fused kernels that it used."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(11)
    keras.config.set_dtype_policy(cell["policy"])
    with strategy_over(cell["replicas"]).scope():
        model = model_of(cell)
        optimizer = OPTIMIZERS[cell["optimizer"]]()
        if cell["policy"] == "mixed_float16":
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=64.0)
        model.compile(
            optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            steps_per_execution=cell["steps"],
            jit_compile=cell["compiled"] == "xla",
        )
    x, y = unlike_rows(BATCH * BATCHES - 1)
    with fused_kernels() as kernels:
        history = fit(model, x / 3, y, *callbacks, batch=BATCH, epochs=EPOCHS)
    variables = [*model.variables, *model.optimizer.variables]
    state = [(v.path, np.asarray(v).tobytes()) for v in variables]
    logs = [(name, np.asarray(values).tobytes()) for name, values in history.history.items()]
    return state + logs, kernels


def test_training_ends_with_the_same_bits(tmp_path, cell, record_property):
    watch = dw.Watch(
        tmp_path / "run.zarr", signals=signals_of(cell), reference=cell["reference"]
    )
    alone, kernels = trained(cell)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watched, kernels_watched = trained(cell, watch)
    warned = any(isinstance(each.message, RoundingWarning) for each in caught)
    assert warned == (cell["compiled"] == "xla")
    differ = [a[0] for a, b in zip(alone, watched, strict=True) if a != b]
    if warned:
        record_property("differs_by_xla", bool(differ))
    else:
        assert not differ
        # Necessary, not sufficient, and needs no luck with rounding.
        assert kernels_watched == kernels
    assert len(dw.open_run(tmp_path / "run.zarr")) == BATCHES * EPOCHS


def test_cells_hold_every_pair_of_values():
    pairs = collections.Counter(
        (cell["layer"], cell["activation"]) for cell in CELLS if cell["placed"] == "separate"
    )
    assert len({layer for layer, _ in pairs}) == 26
    for replicas in (1, 2, 4):
        assert len({c["layer"] for c in CELLS if c["replicas"] == replicas}) >= 25
