"""What a healthy training also does, and is not warned of, beside the fault it resembles."""

import numpy as np
import pytest
from made_runs import run_of, table_of
from test_causes import findings_of, noise, only

from distwatch.findings import NOTE, WARNING

STEPS = 80


def warnings_of(*tables):
    return [each for each in findings_of(*run_of(*tables)) if each.severity == WARNING]


def counted_units(zero, constant, units=16, reference="previous", steps=STEPS, **known):
    """A layer with numbers of units that are zero or constant: (step,) each."""
    numbers = np.broadcast_to(np.stack([0 * zero + units, zero, constant], -1)[:, None, None],
                              (steps, 2, 1, 3))  # fmt: skip
    values = noise(steps, 2, 12, 1)
    known = {"activation/a": {"order": 0, **known}}
    return table_of(0, values, {"activation/a": reference}, units=numbers, known=known)


@pytest.mark.parametrize(
    ("dead", "severity"), [(1, NOTE), (6, NOTE), (7, WARNING), (16, WARNING)]
)
def test_units_that_died_are_counted(dead, severity):
    zero = np.where(np.arange(STEPS) >= 37, dead, 0.0)
    (found,) = only(findings_of(*run_of(counted_units(zero, zero))), "dead")
    assert found.severity == severity
    assert found.text.startswith(f"{dead} of 16 units of activation/a were zero for the whole")
    assert (found.step, "from step 37 on" in found.text) == (37, True)


@pytest.mark.parametrize("units", [16, 200, 1024])
@pytest.mark.parametrize("seed", range(5))
def test_units_that_are_zero_in_a_batch_by_chance_are_not_dead(units, seed):
    """Of a small batch many are, at each step others."""
    rng = np.random.default_rng(seed)
    zero = rng.binomial(units, 0.2, STEPS).astype(float)
    found = findings_of(*run_of(counted_units(zero, zero, units=units)))
    assert not [each for each in found if each.severity == WARNING]
    told = [int(each.text.split()[0]) for each in only(found, "dead")]
    assert sum(told) <= 0.05 * units
    # Beside those that are, some others are at some steps.
    zero = units // 2 + rng.binomial(units // 2, 0.02, STEPS)
    (told,) = only(findings_of(*run_of(counted_units(zero, zero, units=units))), "dead")
    assert told.severity == WARNING
    assert 0.45 * units <= int(told.text.split()[0]) <= 0.5 * units


def test_units_of_a_frozen_layer_are_a_note():
    nine = np.full(STEPS, 9.0)
    (found,) = only(findings_of(*run_of(counted_units(nine, nine, trained=False))), "dead")
    assert found.severity == NOTE


def test_saturated_units_and_a_softmax_of_one_have_words_of_their_own():
    nothing, all_ = np.zeros(STEPS), np.full(STEPS, 16.0)
    (found,) = only(findings_of(*run_of(counted_units(nothing, all_))), "dead")
    assert "the same for every example from step 0 on: they may be saturated" in found.text
    one = counted_units(nothing, np.ones(STEPS), units=1)
    (found,) = only(findings_of(*run_of(one)), "dead")
    assert "no examples are told apart" in found.text
    assert "leaky" not in found.text and "learning rate" not in found.text


def test_what_does_not_change_is_not_dead():
    """A frozen layer on one batch again and again; in older stores units are not counted."""
    values = np.zeros((STEPS, 2, 12, 1))
    assert not warnings_of(table_of(0, values, {"activation/a": "previous"}))
    zeros = np.zeros(STEPS)
    table, block = counted_units(zeros, zeros)
    block.rows[..., 1], block.merged[..., 1] = block.rows[..., 0], block.merged[..., 0]
    assert not only(findings_of(*run_of((table, block))), "dead")


def compared(values, *, epoch, signal="loss"):
    """What is said of replicas with these values: (step, replica, element)."""
    table = table_of(0, values[..., None], {signal: "none"}, epoch=epoch)
    return [each.kind for each in findings_of(*run_of(table)) if each.severity == WARNING]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("steps", [1, 3, 8, 20])
def test_repeated_data_are_no_new_evidence(seed, steps):
    """Each replica has the same few batches in each epoch; they differ, as any two do."""
    rng = np.random.default_rng(seed)
    values = rng.normal(1.0, 1.0, (steps, 2, 12))
    values = np.concatenate([values] * 40) + 0.01 * rng.normal(size=(40 * steps, 2, 12))
    assert compared(values, epoch=steps) == []


@pytest.mark.parametrize("seed", range(10))
def test_nor_are_those_that_each_replica_shuffles(seed):
    rng = np.random.default_rng(seed)
    kept = rng.normal(1.0, 1.0, (2, 96))
    drawn = [[rng.permuted(part).reshape(8, 12) for part in kept] for _ in range(40)]
    values = np.concatenate([np.stack(epoch, axis=1) for epoch in drawn])
    assert compared(values, epoch=8) == []


@pytest.mark.parametrize("epoch", [10, 40, 10**6])
@pytest.mark.parametrize("seed", range(5))
def test_a_replica_scaled_by_a_third_is_told(epoch, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(0.0, 1.0, (120, 2, 96))
    values[:, 1] *= 1.3
    assert compared(values, epoch=epoch) == ["replicas_differ"]


def test_a_converged_training_has_no_spikes():
    """Of a loss that is next to nothing, the noise is many times the median."""
    size = np.exp(-np.arange(300) / 8) + 1e-9
    values = noise(300, 1, 1, 1) * 0 + size[:, None, None, None]
    values[[150, 280]] = 1e-5
    assert not warnings_of(table_of(0, values, {"loss": "none"}))
    values[280] = 0.5
    gradient = {"gradient_local/hidden": "none"}
    (found,) = warnings_of(table_of(0, values, gradient))
    assert (found.kind, found.step) == ("spike", 280)
    # A loss that was as large before is that of one hard batch.
    assert not warnings_of(table_of(0, values, {"loss": "none"}))


def test_what_is_zero_at_most_steps_has_no_spikes():
    values = np.zeros((200, 1, 1, 1))
    values[::25] = 1.0 + noise(8, 1, 1, 1)
    assert not warnings_of(table_of(0, values, {"loss": "none"}))


@pytest.mark.parametrize("signal", ["learning_rate", "learning_rate#1", "log/beta"])
def test_what_a_schedule_says_may_jump(signal):
    """Such as a restart of a cosine schedule."""
    values = np.full((300, 1, 1, 1), 1e-4)
    values[200:203] = 0.1
    assert not warnings_of(table_of(0, values, {signal: "none"}))
    assert warnings_of(table_of(0, values, {"gradient_local/hidden": "none"}))


def stopping(of, at, loss=None, names=("a/kernel", "a/bias"), still=(0, 1)):
    """Gradients or updates of some variables that are zero from a step on."""
    values = noise(STEPS, 1, 6, len(names))
    values[at:, ..., list(still)] = 0.0
    tables = [table_of(0, values, {f"{of}/{name}": "none" for name in names})]
    if loss is not None:
        tables.append(table_of(1, loss[:, None, None, None], {"loss": "none"}))
    return findings_of(*run_of(*tables))


FALLING = np.where(np.arange(STEPS) < 30, 1.0, 0.0)


@pytest.mark.parametrize("of", ["gradient_local", "update"])
def test_a_task_that_is_solved_leaves_nothing_to_learn(of):
    found = stopping(of, 30, FALLING)
    assert not [each for each in found if each.severity == WARNING]
    (note,) = [each for each in found if each.kind in ("no_gradient", "update_ratio")]
    assert note.step == 30


@pytest.mark.parametrize("at", [0, 30])
def test_a_task_that_is_not_has_no_gradient(at):
    (found,) = [each for each in stopping("gradient_local", at, FALLING + 1)
                if each.severity == WARNING]  # fmt: skip
    assert (found.kind, found.step) == ("no_gradient", at)


def test_a_rate_that_comes_to_its_end_is_none_of_zero():
    assert not [e for e in stopping("update", 30, FALLING + 1) if e.severity == WARNING]
    (found,) = [e for e in stopping("update", 0, FALLING + 1) if e.severity == WARNING]
    assert "Is the learning rate zero" in found.text


def test_the_last_bias_of_a_critic_cancels():
    """Something arrives at its layer."""
    found = stopping("gradient_local", 0, still=(1,))
    assert not [each for each in found if each.severity == WARNING]
    found = stopping("gradient_local", 0, still=(0,))
    assert [each.signal for each in found if each.severity == WARNING] == [
        "gradient_local/a/kernel"
    ]


def test_the_advice_does_not_contradict_itself():
    """One variable learns too fast, another hardly at all."""
    norms = np.tile([1.0, 1.0], (STEPS, 1))
    values = noise(STEPS, 1, 6, 2) * [2.0, 1e-9]
    names = {"update/a/kernel": "none", "update/b/kernel": "none"}
    run = run_of(table_of(0, values, names, companion=norms))
    texts = " ".join(each.text for each in only(findings_of(*run), "update_ratio"))
    assert "A lower learning rate may help." in texts
    assert "hardly learns any more" in texts
    assert "higher" not in texts


def fed(checksums, epoch=20):
    """Inputs with these checksums: (step, replica)."""
    values = noise(len(checksums), checksums.shape[1], 12, 1)
    return table_of(0, values, {"input": "none"}, checksum=checksums, epoch=epoch)


@pytest.mark.parametrize("on", [[0], [1], [0, 1]])
def test_a_batch_that_comes_again_and_again(on):
    checksums = np.random.default_rng(0).integers(1, 2**40, (60, 2))
    checksums[26:36, on] = checksums[26, on]
    (found,) = warnings_of(fed(checksums))
    assert (found.kind, found.step) == ("stuck_inputs", 26)
    assert found.replica == (on[0] if len(on) == 1 else None)
    assert "at 10 steps in a row, from step 26 on" in found.text


def test_epochs_of_one_batch_are_not_stuck():
    checksums = np.full((60, 1), 12345)
    assert not warnings_of(fed(checksums, epoch=1))
    # And it is one thing that data come again in each epoch.
    assert not warnings_of(fed(np.tile(np.arange(1, 5), 15)[:, None], epoch=4))


@pytest.mark.parametrize("seed", range(20))
def test_the_largest_is_no_smaller_than_the_median(seed):
    values = np.full((50, 1, 3, 1), 10.0 ** np.random.default_rng(seed).uniform(-3, 3))
    (found,) = only(
        findings_of(*run_of(table_of(0, values, {"activation/a": "previous"}))),
        "largest_change",
    )
    assert " 1 times its median" in found.text
