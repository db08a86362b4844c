"""The faults that ``make faults`` plants can be planted: their texts and tests are there."""

from pathlib import Path

import pytest
from planted_faults import FAULTS, PACKAGE, ROOT, file_of

TESTS = Path(__file__).parent


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.what)
def test_a_fault_applies(fault):
    """Its text is found once, what takes its place can be read, and its tests exist."""
    file = file_of(fault, ROOT / PACKAGE)
    compile(file.read_text().replace(fault.old, fault.new), file, "exec")
    for test in fault.tests:
        name, _, function = test.partition("::")
        assert f"def {function}" in (TESTS / name).read_text()


def test_faults_have_words_of_their_own():
    assert len({fault.what for fault in FAULTS}) == len(FAULTS) >= 30
