"""Of several replicas the one that is fed other data is named, and none that is not."""

import re

import numpy as np
import pytest

from distwatch.digest import Digest
from distwatch.records import Block, RunInfo, Table
from distwatch.signals import Signal
from distwatch.statistics import Checksum, merge_axis, observe, with_row

STEPS = 40
ROW = with_row((Checksum(),))


def sentences(shifts):
    """What is said of replicas whose inputs are shifted by so many standard deviations."""
    rng = np.random.default_rng(8)
    rows = np.empty((STEPS, len(shifts), 1, len(ROW.fields)))
    for step, replica in np.ndindex(rows.shape[:2]):
        values = rng.normal(3.0 + 2.0 * shifts[replica], 2.0, 100 + 10 * replica)
        rows[step, replica, 0] = ROW.pack(observe(ROW, values))
    table = Table("table-00", (Signal("input", "none"),), "every(1)", STEPS, ROW)
    info = RunInfo((table,), tuple(range(len(shifts))), "made up", {})
    step = np.arange(STEPS)
    digest = Digest(info)
    digest.observe(Block("table-00", step, step, step, rows, merge_axis(ROW, rows, axis=1)))
    return digest.sentences()


def named(shifts):
    said = [line for line in sentences(shifts) if "other data" in line]
    return [int(number) for line in said for number in re.findall(r"[Rr]eplicas? (\d+)", line)]


@pytest.mark.parametrize("replicas", [3, 4, 5, 8])
def test_one_odd_replica_does_not_make_the_others_look_odd(replicas):
    for odd in range(replicas):
        shifts = np.zeros(replicas)
        shifts[odd] = -1.5
        assert named(shifts) == [odd]


def test_of_two_that_differ_neither_is_more_odd_than_the_other():
    assert named([0.0, 1.0]) == [0, 1]


@pytest.mark.parametrize("replicas", [2, 3, 4])
def test_none_is_named_where_all_are_alike(replicas):
    assert named(np.zeros(replicas)) == []


def test_two_odd_ones_of_five_are_both_named():
    assert named([0.0, 0.0, 2.0, 0.0, -2.0]) == [2, 4]
