"""What is known of a signal besides its rows is stored, and unknown where it was not."""

import pytest

from distwatch.records import Table
from distwatch.signals import Signal
from distwatch.store import schema


@pytest.mark.parametrize("known", [{"order": 3, "copied": False, "trained": True}, {}])
def test_what_is_known_of_a_signal_comes_back(known):
    table = Table("table-00", (Signal("activation/a", "none", **known),), "every(1)", 8)
    stored = schema.table_attributes(table, 0, 0)[schema.ATTRIBUTE]
    (signal,) = schema.TableAttributes.model_validate(stored).table("table-00").signals
    assert vars(signal) == vars(table.signals[0])
    # As a distwatch wrote it that did not know of them.
    stored["signals"] = [{"name": "activation/a", "reference": "none"}]
    (signal,) = schema.TableAttributes.model_validate(stored).table("table-00").signals
    assert (signal.order, signal.copied, signal.trained) == (None, None, None)
    assert signal == table.signals[0]
