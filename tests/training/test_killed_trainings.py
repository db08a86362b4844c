"""What `killed_trainings` tries for hours, for a minute."""

import killed_trainings
import pytest

pytestmark = pytest.mark.slow


def test_killed_trainings_leave_the_run_of_one_that_was_not_killed():
    met, wrong = killed_trainings.harness(3, seed=1)
    assert wrong == []
    assert met["chains"] == 3
    assert sum(times for what, times in met.items() if what.startswith("kills")) >= 3
