"""When steps were done, as far as starts and commits say."""

import itertools
from dataclasses import replace

import pytest
from made_up import ACTIVATIONS, made_up

from distwatch.records import Origin, Provenance
from distwatch.store import StoredRun, StoreWriter, Times, claim, table_writer, times_of
from distwatch.store.schema import root_attributes
from distwatch.store.value_types import MOST_MOMENTS

CREATED = "2027-01-15T08:00:00+00:00"  # 1,800,000,000 seconds since 1970
BEGAN = 1.8e9

#: No chunk is full before it is committed.
TABLES = (replace(ACTIVATIONS, window=512),)


class Clock:
    """A clock that the test sets."""

    def __init__(self, monkeypatch):
        self.now = BEGAN
        monkeypatch.setattr(table_writer, "time", self)

    def time(self):
        return self.now

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def write(path, clock, commits, *, start=0, first=0, began=None):
    """A start that commits up to these steps at these times."""
    info = replace(
        made_up(steps=range(0), tables=TABLES).info,
        provenance=None if began is None else Provenance(began),
        origin=Origin(start, first),
    )
    if not start:
        claim(path, root_attributes(info, CREATED))
    writer = StoreWriter(path, info)
    done = first
    for steps, clock.now in commits.items():
        for block in made_up(steps=range(done, steps), tables=TABLES).blocks:
            writer.append(block)
        writer.commit_tail()
        done = steps
    writer.close()


def test_steps_are_done_when_they_are_committed(tmp_path, clock):
    write(tmp_path / "run.zarr", clock, {4: BEGAN + 10, 6: BEGAN + 70})
    assert times_of(StoredRun(tmp_path / "run.zarr")) == Times((0, 4, 6), (0, 10, 70), 2)


def test_a_start_says_itself_when_it_began(tmp_path, clock):
    commits = {4: BEGAN + 10, 6: BEGAN + 70}
    write(tmp_path / "run.zarr", clock, commits, began=BEGAN + 5)
    assert times_of(StoredRun(tmp_path / "run.zarr")).seconds == (0, 5, 65)


def test_commits_at_once_are_one(tmp_path, clock):
    commits = {2: BEGAN + 10, 4: BEGAN + 10.5, 6: BEGAN + 10.75, 8: BEGAN + 20}
    write(tmp_path / "run.zarr", clock, commits)
    assert times_of(StoredRun(tmp_path / "run.zarr")) == Times((0, 6, 8), (0, 10.75, 20), 2)


def test_a_later_start_begins_after_a_pause(tmp_path, clock):
    path = tmp_path / "run.zarr"
    write(path, clock, {4: BEGAN + 10, 8: BEGAN + 20}, began=BEGAN)
    later = {8: BEGAN + 120, 10: BEGAN + 130}
    write(path, clock, later, start=1, first=6, began=BEGAN + 100)
    assert times_of(StoredRun(path)) == Times(
        (0, 4, 6, 6, 8, 10), (0, 10, 15, 100, 120, 130), 3
    )


@pytest.mark.parametrize(
    "commits",
    [
        {8: BEGAN + 10},
        {4: BEGAN + 10, 8: BEGAN + 10.5},
        # A clock was set back.
        {4: BEGAN + 10, 8: BEGAN + 3},
        {4: BEGAN - 5, 8: BEGAN + 3},
    ],
)
def test_where_too_little_is_known_there_are_none(tmp_path, clock, commits):
    write(tmp_path / "run.zarr", clock, commits)
    assert times_of(StoredRun(tmp_path / "run.zarr")) == Times()


def test_a_later_start_of_unknown_beginning_has_none(tmp_path, clock):
    write(tmp_path / "run.zarr", clock, {4: BEGAN + 10, 8: BEGAN + 20})
    write(tmp_path / "run.zarr", clock, {8: BEGAN + 120, 10: BEGAN + 130}, start=1, first=6)
    assert times_of(StoredRun(tmp_path / "run.zarr")) == Times()


@pytest.mark.slow
def test_of_many_commits_some_are_noted_evenly(tmp_path, clock):
    commits = {steps: BEGAN + 10 * steps for steps in range(1, 300)}
    write(tmp_path / "run.zarr", clock, commits)
    (segment,) = StoredRun(tmp_path / "run.zarr").segments
    (table,) = segment.stored
    steps = [moment[0] for moment in table.reached]
    assert steps[0] == 1 and steps[-1] == 299
    assert len(steps) == MOST_MOMENTS
    # At most twice as far apart as if they lay quite evenly.
    assert max(b - a for a, b in itertools.pairwise(steps)) <= 2 * 298 / (MOST_MOMENTS - 1)
