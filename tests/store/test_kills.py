"""A small version of ``kills.py``, which kills writers at random moments."""

import kills
import pytest

pytestmark = pytest.mark.slow


def test_nothing_that_was_acknowledged_is_torn_or_lost():
    met, wrong = kills.harness(20, seed=1)
    assert wrong == []
    assert met.total() == 20
    assert sum(times for where, times in met.items() if "resumed" in where) >= 10
    assert sum(times for where, times in met.items() if where.startswith(("wri", "tail"))) >= 1
