"""What `fuzz` tries for hours, for a minute."""

import fuzz
import oracle
import pytest

#: Keras warns of some of the trainings that are drawn, and numbers that overflow are wanted.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]


def test_every_row_of_what_is_drawn_equals_numpy():
    counted, wrong = fuzz.harness(8, seed=10)
    assert wrong == []
    assert counted["configurations"] - counted["that Keras cannot train"] >= 7
    assert counted["rows compared"] > 200


def test_a_wrong_row_is_a_fault(monkeypatch):
    """Were the reference of the step before another one, the comparison would say so."""
    deltas = oracle.deltas
    monkeypatch.setattr(oracle, "deltas", lambda reference, values: deltas("none", values))
    config = fuzz.draw(10, 0) | {"policy": "float32", "schedule": "every(1)", "replicas": 1}
    config["signals"] = [
        {"activations": {"reference": "previous", "named": False, "inputs": False}}
    ]
    compared, faults = fuzz.faults_of(config)
    assert compared
    assert faults
