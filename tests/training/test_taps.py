"""Each kind of selector has a tap, which says where and how its signals are picked up."""

import keras
from trainings import fit, unlike_rows

import distwatch as dw
from distwatch import signals
from distwatch.records import PHASES
from distwatch.training.taps.kinds import TAPS


def test_each_kind_has_a_tap_of_its_own():
    assert set(TAPS) == {*signals.KINDS.values(), signals.Canary, signals.Probe}
    assert len(set(TAPS.values())) == len(TAPS)


def test_taps_say_in_which_phases_their_signals_exist():
    phases = {cls.kind: set(tap.phases) for cls, tap in TAPS.items()}
    assert all({"train", "train_on_batch"} <= found <= set(PHASES) for found in phases.values())
    of_inference = {kind for kind, found in phases.items() if "predict" in found}
    assert of_inference == {"activations", "data", "tensors", "inputs", "logged", "states"}
    assert "test" in phases["loss"]


def test_the_optimizer_is_observed_only_for_what_it_does():
    observing = {cls.kind for cls, tap in TAPS.items() if tap.observes_optimizer}
    assert observing == {"gradients", "learning_rate", "updates"}


class Bend(keras.layers.Layer):
    """A layer of no arguments but its input, which is all that RematScope can do."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")

    def call(self, x):
        return keras.ops.tanh(x @ self.kernel)


def test_what_is_computed_again_for_a_gradient_is_no_second_call(tmp_path):
    keras.utils.clear_session()
    with keras.RematScope(mode="full"):
        bend = Bend(name="bend")
    model = keras.Sequential([keras.Input((12,)), bend, keras.layers.Dense(4, name="dense")])
    model.compile("sgd", "mse")
    x, _ = unlike_rows(32)
    fit(model, x, x[:, :4], dw.Watch(tmp_path / "run.zarr", signals=dw.activations()))
    signals = dw.open_run(tmp_path / "run.zarr").signals
    assert signals == ["activation/bend", "activation/dense", "activation/output"]
