"""Each kind of selector has a tap, which says where and how its signals are picked up."""

from distwatch import signals
from distwatch.records import PHASES
from distwatch.training.taps.kinds import TAPS


def test_each_kind_has_a_tap_of_its_own():
    assert set(TAPS) == {*signals.KINDS.values(), signals.Probe}
    assert len(set(TAPS.values())) == len(TAPS)


def test_taps_say_in_which_phases_their_signals_exist():
    phases = {cls.kind: set(tap.phases) for cls, tap in TAPS.items()}
    assert all({"train", "train_on_batch"} <= found <= set(PHASES) for found in phases.values())
    of_inference = {kind for kind, found in phases.items() if "predict" in found}
    assert of_inference == {"activations", "tensors", "inputs"}
    assert "test" in phases["loss"]


def test_the_optimizer_is_observed_only_for_what_it_does():
    observing = {cls.kind for cls, tap in TAPS.items() if tap.observes_optimizer}
    assert observing == {"gradients", "updates"}
