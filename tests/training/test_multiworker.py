"""The fix of Keras's fit goes in, comes out, and stays away from a Keras it does not know.

That it works is seen in test_several_workers.py.
"""

import threading

import pytest
from keras.src.backend.tensorflow import trainer
from trainings import fit, same_weights, small_model, strategy_over, unlike_rows

from distwatch.errors import UnsupportedTrainingError
from distwatch.training import multiworker as compat


def in_place():
    return trainer.TensorFlowTrainer._maybe_symbolic_build, trainer.reduce_per_replica


def test_it_is_undone_also_by_an_error_and_only_by_the_outermost_block():
    original = in_place()
    with pytest.raises(ZeroDivisionError), compat.multiworker_fit():
        with compat.multiworker_fit():
            fixed = in_place()
        assert in_place() == fixed
        assert compat.multiworker_fit_is_fixed()
        1 / 0  # noqa: B018
    assert not set(fixed) & set(original)
    assert in_place() == original
    assert not compat.multiworker_fit_is_fixed()


def test_blocks_of_several_threads_end_in_any_order():
    original = in_place()
    entered, leave = threading.Event(), threading.Event()

    def other():
        with compat.multiworker_fit():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with compat.multiworker_fit():
        fixed = in_place()
        thread.start()
        assert entered.wait(10)
    assert in_place() == fixed
    leave.set()
    thread.join()
    assert in_place() == original


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 2])
def test_other_strategies_train_as_ever(replicas):
    def trained():
        model, _ = small_model(strategy_over(replicas))
        return model, fit(model, *unlike_rows(48), epochs=2).history

    model, history = trained()
    with compat.multiworker_fit():
        same, same_history = trained()
    assert same_weights(model, same)
    assert history == same_history


def test_a_trainer_that_is_not_known_is_left_alone(monkeypatch):
    def reduce_per_replica(values, strategy, reduction):
        """That of a Keras to come."""

    monkeypatch.setattr(trainer, "reduce_per_replica", reduce_per_replica)
    unknown = in_place()
    with pytest.raises(UnsupportedTrainingError, match="is another one: try fit without it"):
        compat.multiworker_fit().__enter__()
    assert in_place() == unknown
