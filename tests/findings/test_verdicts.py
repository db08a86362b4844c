"""What is said of real trainings: nothing of healthy ones, and what is wrong of others.

``make verdicts`` tries all of them; here are a few, and the others with ``--slow``.
"""

import pytest
from faulty_trainings import FAULTY
from healthy_trainings import HEALTHY
from verdicts import faulty_verdict, healthy_verdict

# Of some of these models Keras has known faults on several replicas, and a Watch says so.
pytestmark = pytest.mark.filterwarnings("ignore::distwatch.errors.KnownTrapWarning")


@pytest.mark.fast_cases("wasserstein gan")
@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_warned_of_in_a_healthy_training(name, tmp_path):
    assert healthy_verdict(HEALTHY[name], tmp_path / "run.zarr") == ""


# Keras's own warning of one of the faults.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Gradients do not exist for:UserWarning")
@pytest.mark.filterwarnings("ignore:You are using a softmax over axis:UserWarning")
@pytest.mark.parametrize("name", FAULTY)
def test_a_fault_is_told_with_its_place(name, tmp_path):
    assert faulty_verdict(FAULTY[name], tmp_path / "run.zarr") == ""


def test_there_are_as_many_as_were_promised():
    assert len(HEALTHY) >= 30
    assert len(FAULTY) >= 25
