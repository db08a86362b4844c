"""Where NaN began is named exactly: step, replica, layer, and forward or backward."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import fit, strategy_over, unlike_rows

import distwatch as dw

layers = keras.layers

BATCH, STEPS = 16, 9
#: The last batch has fewer rows, so its shapes are others.
X, _ = unlike_rows(BATCH * STEPS - 4)

#: Name -> step, dtype policy, steps per execution.
KINDS = {
    "first": (0, "float32", 1),
    "later": (5, "float32", 1),
    "last, of fewer rows": (STEPS - 1, "float32", 1),
    "mixed": (4, "mixed_bfloat16", 1),
    "executions of 3": (4, "float32", 3),
}
CASES = [*itertools.product(KINDS, (0, 1, 2), ("forward", "backward"), (0, 1))]
#: Some of each kind; `make matrix` tries all 60.
SLOW, QUICK = CASES[::5], [CASES[2], CASES[29]]


class Spoil(layers.Layer):
    """Adds NaN to the marked rows: to what it passes on, or to the gradient it passes back."""

    def __init__(self, where, **kwargs):
        super().__init__(**kwargs)
        self.where = where

    def call(self, inputs):
        x, marked = inputs
        spoilt = tf.where(marked > 0, tf.cast(np.nan, x.dtype), tf.cast(0.0, x.dtype))
        if self.where == "forward":
            return x + spoilt

        @tf.custom_gradient
        def passed_on(value):
            return tf.identity(value), lambda gradient: gradient + spoilt

        return passed_on(x)


def pytest_generate_tests(metafunc):
    if "replica" in metafunc.fixturenames:
        chosen = CASES if metafunc.config.getoption("--whole-matrix") else SLOW
        cases = [pytest.param(*case, marks=pytest.mark.slow) for case in chosen]
        metafunc.parametrize("kind, place, where, replica", [*cases, *QUICK])


@pytest.fixture(autouse=True)
def float32_again():
    yield
    keras.config.set_dtype_policy("float32")


def trained(path, case, signals):
    kind, place, where, replica = case
    step, policy, executed = KINDS[kind]
    keras.utils.clear_session()
    keras.utils.set_random_seed(4)
    keras.config.set_dtype_policy(policy)
    with strategy_over(2).scope():
        x, marked = keras.Input((12,), name="x"), keras.Input((1,), name="marked")
        hidden = x
        for i in range(3):
            hidden = layers.Dense(8, "tanh", name=f"dense_{i}")(hidden)
            if i == place:
                hidden = Spoil(where, name="spoil")([hidden, marked])
        model = keras.Model([x, marked], layers.Dense(1, dtype="float32")(hidden))
        model.compile(keras.optimizers.SGD(0.01), "mse", steps_per_execution=executed)
    rows = min(BATCH, len(X) - step * BATCH)
    marks = np.zeros((len(X), 1), "float32")
    marks[step * BATCH + replica * rows // 2 + 1] = 1.0
    watch = dw.Watch(path, signals=signals)
    fit(model, {"x": X, "marked": marks}, X[:, :1] + 2.0, watch, batch=BATCH)
    return [each for each in dw.open_run(path).findings() if each.kind == "not_finite"]


def test_where_nan_began(tmp_path, kind, place, where, replica):
    signals = [dw.activations("*"), dw.loss(), dw.gradients()]
    (finding,) = trained(tmp_path / "run.zarr", (kind, place, where, replica), signals)
    assert (finding.step, finding.replica) == (KINDS[kind][0], replica)
    if where == "forward":
        assert finding.signal == "activation/spoil"
    else:
        # The gradient reaches this one first.
        assert finding.signal == f"gradient_local/dense_{place}/kernel"
    assert f"on replica {replica}, in the {where} pass, in " in finding.text


def test_by_default_it_is_said_where_to_look(tmp_path):
    """Without gradients a step's backward pass is seen in the next step's forward pass."""
    case = ("later", 1, "backward", 1)
    (finding,) = trained(tmp_path / "run.zarr", case, signals=None)
    assert (finding.step, finding.replica) == (6, None)
    assert "on all 2 replicas, in the forward pass, in activation/dense_0" in finding.text
    assert "distwatch.gradients() and distwatch.inputs() tell which" in finding.advice
