"""The faults that ``make faults`` plants can be planted: their texts and tests are there."""

from pathlib import Path

import pytest
from fault import Fault
from planted_faults import FAULTS, PACKAGE, ROOT, DoesNotApplyError, file_of

TESTS = Path(__file__).parent


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_a_fault_applies(fault):
    """Its text is found once, what takes its place can be read, and its tests exist."""
    file = file_of(fault, ROOT / PACKAGE)
    compile(file.read_text().replace(fault.old, fault.new), file, "exec")
    for test in fault.tests:
        name, _, function = test.partition("::")
        text = (TESTS / name).read_text()
        assert not function or f"def {function}(" in text


def test_faults_have_words_of_their_own():
    assert len({fault.what for fault in FAULTS}) == len(FAULTS) >= 30


@pytest.mark.parametrize("text", ["no such text", "x = 1"])
def test_a_text_that_is_not_there_once_does_not_apply(tmp_path, text):
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("x = 1\n")
    with pytest.raises(DoesNotApplyError, match=r"found [02] times in distwatch/: "):
        file_of(Fault("a fault", "", text, "y = 1", ()), tmp_path)
