"""A small version of ``live.py``: a reader polls what two processes write."""

import live


def test_a_run_that_is_written_can_be_opened_at_any_time():
    wrong, steps = live.poll(60)
    assert wrong == []
    assert min(steps.get(worker, 0) for worker in range(2)) > 0
