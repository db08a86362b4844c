"""Replicas with equal batches are found in memory that does not grow with all their pairs."""

import tracemalloc

import numpy as np
import pytest

from distwatch.findings import equal_batches
from distwatch.findings.equal_batches import EqualBatches, EqualPairs


def observed(replicas, *steps):
    """What is found where each step gives a batch's number to each replica; None for none."""
    batches = EqualBatches(replicas)
    for step in steps:
        there = np.array([[each is not None for each in step]])
        numbers = np.array([[[each or 0.0] for each in step]], np.float64)
        batches.observe(numbers, there)
    return batches.most()


@pytest.mark.parametrize("compared", [512, 0])
def test_the_pair_that_is_equal_most_often(monkeypatch, compared):
    monkeypatch.setattr(equal_batches, "_MOST_COMPARED", compared)
    assert observed(3, (1, 2, 3), (4, 5, 6)) is None
    # No batch at all is not an equal one.
    assert observed(3, (None, None, 3)) is None
    assert observed(4, (1, 2, 1, 3), (5, 6, 7, 6), (8, 9, 10, 9)) == EqualPairs(1, 3, 2, 1)


@pytest.mark.parametrize("batch", ["equal", "unlike"])
def test_of_thousands_of_replicas(batch):
    replicas = 8192
    checksum = np.ones((3, replicas, 1))
    if batch == "unlike":
        checksum = np.arange(checksum.size, dtype=np.float64).reshape(checksum.shape)
    tracemalloc.start()
    batches = EqualBatches(replicas)
    batches.observe(checksum, np.ones((3, replicas), bool))
    found = batches.most()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000
    assert found == (EqualPairs(0, 1, 3, replicas - 2) if batch == "equal" else None)
