"""From which step on two runs differ by more than rounding explains, and where they do not."""

import numpy as np
import pytest
from compared_runs import STEPS, rounded_otherwise, values


@pytest.mark.parametrize("rounding", [0.0, 1e-7])
@pytest.mark.parametrize("replica", [0, 1])
def test_a_change_at_one_step_in_one_layer_of_one_replica(made, rounding, replica):
    deltas = values()
    changed = rounded_otherwise(deltas, np.full(STEPS, rounding))
    changed[50, replica, 1] *= 1.5
    found = made(deltas, changed)
    first = found.first
    assert (first.step, first.signal, first.replica) == (50, "activation/layer_1", replica)
    assert 0.3 < first.difference < 0.6
    assert [each.step for each in found.signals] == [50, None, None]
    said = " ".join(found.sentences())
    assert f"part at step 50, in activation/layer_1 of replica {replica}" in said
    assert ("Up to then they are equal bit for bit" in said) is (rounding == 0.0)


def test_what_changes_at_one_step_is_ranked_by_the_order_within_it(made):
    deltas = values(signals=3)
    changed = deltas.copy()
    changed[60:] *= 2.0
    changed[60:, :, 0] *= 3.0
    changed[40:, :, 2] *= 2.0
    # However much more the gradient changes, it was computed later.
    found = made(deltas, changed, names=["gradient/a/kernel", "activation/a", "activation/b"])
    assert [(each.signal, each.step) for each in found.signals] == [
        ("activation/b", 40),
        ("activation/a", 60),
        ("gradient/a/kernel", 60),
    ]
    assert found.first.replicas == (0, 1)
    assert found.first.replica is None


def test_rounding_that_grows_is_no_parting(made):
    """From 1e-7 to a tenth of the signals' size, by a fifth at each step."""
    deltas = values()
    found = made(deltas, rounded_otherwise(deltas, 1e-7 * 1.2 ** np.arange(STEPS)))
    assert found.verdict == "within_tolerance"
    assert max(each.largest for each in found.signals) > 100 * found.tolerance
    assert all(each.first_beyond > 30 for each in found.signals)


def test_a_change_is_found_within_rounding_that_grows(made):
    deltas = values()
    changed = rounded_otherwise(deltas, 1e-7 * 1.2 ** np.arange(STEPS))
    changed[60:, :, 2] *= 1.5
    found = made(deltas, changed)
    assert (found.first.step, found.first.signal) == (60, "activation/layer_2")
    assert found.first.explained > 0.0


def test_a_difference_that_set_in_late_and_grew_is_not_hidden(made):
    deltas = values()
    sizes = np.where(np.arange(STEPS) < 40, 0.0, 1e-7 * 1.4 ** (np.arange(STEPS) - 40.0))
    found = made(deltas, rounded_otherwise(deltas, sizes))
    assert found.verdict == "within_tolerance"
    assert found.first_unequal.first_unequal == 40
    assert "Before step 40 they are equal bit for bit" in " ".join(found.sentences())


@pytest.mark.parametrize("steps, parts", [([50], False), (range(50, 90), True), ([89], True)])
def test_a_gradient_has_to_differ_at_two_looks(made, steps, parts):
    """A single gate that rounding opens changes a gradient once."""
    deltas = values(signals=2)
    changed = rounded_otherwise(deltas, np.full(STEPS, 1e-7))
    changed[list(steps), :, 1] *= 1.5
    found = made(deltas, changed, names=["activation/a", "gradient/a/kernel"])
    assert found.verdict == ("parted" if parts else "within_tolerance")
    if parts:
        assert (found.first.step, found.first.signal) == (min(steps), "gradient/a/kernel")


@pytest.mark.parametrize(
    "name, steps, first",
    [
        ("gradient/a/kernel", [50], None),
        ("gradient/a/kernel", range(50, 90), "gradient/a/kernel"),
        ("gradient/a/kernel", [], "update/a/kernel"),
        ("weight/a/kernel", [50], "update/a/kernel"),
    ],
    ids=["a gate", "another gradient", "another rate", "a weight"],
)
def test_an_update_may_carry_on_what_a_gradient_had_once(made, name, steps, first):
    """Momentum carries what a single gate opened into many updates."""
    deltas = values(signals=3)
    changed = rounded_otherwise(deltas, np.full(STEPS, 1e-7))
    changed[list(steps), :, 1] *= 1.5
    changed[50:, :, 2] *= 1.5
    names = ["activation/a", name, "update/a/kernel"]
    found = made(deltas, changed, names=names)
    assert (found.first and (found.first.signal, found.first.step)) == (first and (first, 50))


@pytest.mark.parametrize(
    "changed, forward, parts",
    [([3], None, None), ([1, 2, 3], None, 0), ([3], 1, 0), ([3], 40, 40)],
    ids=["alone", "most", "seen next", "seen later"],
)
def test_what_differs_from_the_first_step_on_needs_a_witness(made, changed, forward, parts):
    """Adam makes full updates of gradients that are nothing but rounding."""
    names = ["activation/a", "update/a/kernel", "update/b/kernel", "update/b/bias"]
    deltas = values(signals=4)
    other = rounded_otherwise(deltas, np.full(STEPS, 1e-7))
    other[:, :, changed] *= 1.5
    if forward is not None:
        other[forward:, :, 0] *= 1.5
    found = made(deltas, other, names=names)
    assert (found.first.step if found.first else None) == parts
    said = " ".join(found.sentences())
    assert ("update/b/bias: different from the first step on" in said) is (parts in (None, 40))


def test_without_activations_what_differs_from_the_first_step_on_is_told(made):
    deltas = values(signals=4)
    changed = rounded_otherwise(deltas, np.full(STEPS, 1e-7))
    changed[:, :, 3] *= 1.5
    names = [f"update/{letter}/kernel" for letter in "abcd"]
    assert made(deltas, changed, names=names).first.signal == "update/d/kernel"


def test_a_gradient_that_is_nothing_but_rounding_is_measured_by_the_others(made):
    deltas = values(signals=3)
    noise = np.random.default_rng(4).normal(0, 1e-7, (2, *deltas[:, :, 2].shape))
    deltas[:, :, 2], changed = noise[0], deltas.copy()
    changed[:, :, 2] = noise[1]
    names = ["activation/a", "gradient/a/kernel", "gradient/a/bias"]
    found = made(deltas, changed, names=names)
    assert found.verdict == "within_tolerance"
    assert [each.first_beyond for each in found.signals] == [None] * 3


def test_what_differs_by_its_whole_size_parts_no_more(made):
    """Of two trainings that rounding led far apart, one may be ten thousand times smaller."""
    deltas = values(signals=1)
    changed = rounded_otherwise(deltas, np.minimum(1e-7 * 1.3 ** np.arange(STEPS), 3.0))
    changed[80:] *= 1e-5
    assert made(deltas, changed).verdict == "within_tolerance"
