"""A finding names the broken rows of each replica's batch, and what was not looked at."""

from dataclasses import replace

import numpy as np
import pytest
from made_runs import run_of, table_of

import distwatch as dw
from distwatch.errors import ConfigError
from distwatch.findings import Digest
from distwatch.records import BrokenRows
from distwatch.testing.fake import fake_run

NAME = "activation/a"


def text_of(*rows, every=1, replicas=2, at=20):
    """The text on a run in which NaN begin at a step, with these rows of the batches."""
    values = np.random.default_rng(0).normal(3.0, 1.0, (12, replicas, 16, 1))
    values[at // every :, -1] = np.nan
    table = table_of(0, values, {NAME: "none"}, every=every)
    info, (block,) = run_of(table)
    digest = Digest(info)
    # They come with the second block, and the first fills no window.
    digest.observe(block[:5])
    digest.observe(replace(block[5:], broken=rows))
    (finding,) = (each for each in digest.findings() if each.rule == "NonFinite")
    return finding.text


def of(replica, *first, rows=16, broken=None, step=8):
    return BrokenRows(NAME, replica, step, rows, broken or len(first), first)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([of(1, 3, 7)], f"{NAME} (rows 3 and 7 of replica 1's batch); in all"),
        ([of(1, 3)], f"{NAME} (row 3 of replica 1's batch); in all"),
        ([of(1, 0, 1, rows=2)], f"{NAME} (all 2 rows of replica 1's batch); in all"),
        (
            [of(1, *range(8), broken=11)],
            f"{NAME} (11 of 16 rows of replica 1's batch: 0, 1, 2, 3, 4, 5, 6, 7, ...); in all",
        ),
        (
            [of(0, 2), of(1, 3, 7)],
            f"{NAME} (row 2 of replica 0's batch; rows 3 and 7 of replica 1's batch); in all",
        ),
        # Of another step than the first that is in the rows: of a start that was replaced.
        ([of(1, 3, step=9)], f"{NAME}; in all"),
        # As in older runs.
        ([], f"{NAME}; in all"),
    ],
)
def test_rows_are_named(rows, said):
    assert said in text_of(*rows, at=8)


def test_of_one_replica_it_is_the_batch():
    assert "(rows 3 and 7 of the batch)" in text_of(of(0, 3, 7), replicas=1, at=8)


def test_it_is_said_which_steps_before_were_not_looked_at():
    said = (
        "They may have begun earlier: of these signals the 4 steps before it, after step 15, "
        "are not recorded."
    )
    assert said in text_of(every=5)
    assert "earlier" not in text_of(at=8)


def test_before_has_the_recorded_steps_before_a_step(tmp_path):
    run = dw.open_run(fake_run(tmp_path / "run.zarr", steps=80).path)
    assert run.before(70)["dense"].to_xarray().step.values.tolist() == [*range(20, 70)]
    assert run.before(70, steps=3).to_xarray().step.values.tolist() == [67, 68, 69]
    assert len(run.before(7)) == 7
    with pytest.raises(ConfigError, match="has no step before step 0"):
        run.before(0)
    with pytest.raises(ConfigError, match="from 1 on"):
        run.before(5, steps=0)
