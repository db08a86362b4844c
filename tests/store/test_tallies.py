"""What a start notes of how far it is, the next one finds, wherever the run is."""

import threading
from dataclasses import replace

import pytest
from test_writing import info_of

from distwatch.errors import WriteFailedError
from distwatch.records import Origin
from distwatch.store import Note, Tally, claim_again, claim_new, location_of, tallies
from distwatch.store.schema import root_attributes
from distwatch.store.tallies import noted_steps, tally_name

INFO = info_of()
ATTRIBUTES = root_attributes(INFO, "2026-01-01T00:00:00+00:00", "a")


def noted(address, iteration, *, phase="test", start=9, starts=()):
    info = replace(INFO, phase=phase, origin=Origin(start, 0, iteration))
    found = noted_steps(location_of(address), info, set(starts))
    return found and found.steps


def write(claimed, *notes):
    """Note what a start that is killed then has noted."""
    tally = Tally(location_of(claimed.address), claimed, 0)
    for phase, iteration, steps in notes:
        tally.note(Note(phase, iteration, steps))
    return tally


def test_a_start_goes_on_at_the_last_note_before_it(address):
    with_first = claim_new(address, ATTRIBUTES)
    write(with_first, ("train", 0, 0), ("test", 6, 0), ("test", 6, 5), ("test", 12, 10)).close()
    with_first.release()
    assert [noted(address, each) for each in (0, 5, 6, 11, 12, 99)] == [
        None, None, 5, 5, 10, 10
    ]  # fmt: skip
    assert noted(address, 7, phase="train") == 0
    assert noted(address, 7, phase="predict") is None
    # Another start wrote rows, and left no tally.
    assert noted(address, 12, starts=(0,)) == 10
    assert noted(address, 12, starts=(0, 1)) is None


def test_a_start_takes_back_what_came_after_it(address):
    first = claim_new(address, ATTRIBUTES)
    write(first, ("train", 0, 0), ("test", 6, 5), ("test", 12, 10)).close()
    first.release()
    second = claim_again(address)
    assert second.start == 1
    write(second, ("train", 8, 8)).close()
    second.release()
    assert claim_again(address).start == 2
    assert noted(address, 20) == 5
    # As the second start itself finds it, when it comes to its first validation.
    assert noted(address, 20, start=1) == 5


def test_where_all_was_taken_back_a_phase_begins_at_its_first_step(address):
    """A kill in the first validation, and one in the training before it comes again."""
    for notes in ([("train", 0, 0), ("test", 10, 0)], [("train", 0, 0)]):
        start = claim_new(address, ATTRIBUTES) if len(notes) == 2 else claim_again(address)
        write(start, *notes).close()
        start.release()
    assert noted(address, 10, start=2, starts=(0,)) == 0
    # Another start left no tally, so what it had is not known.
    assert noted(address, 10, start=3, starts=(0,)) is None


def test_a_start_that_trained_on_from_an_earlier_place_takes_back_what_came_after(address):
    """From a checkpoint that is older than the last validation."""
    first = claim_new(address, ATTRIBUTES)
    write(first, ("train", 0, 0), ("test", 8, 0), ("test", 8, 2), ("test", 16, 4),
          ("test", 24, 6)).close()  # fmt: skip
    first.release()
    second = claim_again(address)
    assert noted(address, 24, start=1) == 6
    write(second, ("train", 16, 16)).close()
    assert noted(address, 24, start=1) == 4
    second.release()


def test_from_where_on_steps_were_not_counted_nothing_is_known(address):
    claimed = claim_new(address, ATTRIBUTES)
    write(claimed, ("test", 6, 5), ("test", 8, None)).close()
    claimed.release()
    assert (noted(address, 7), noted(address, 8)) == (5, None)


@pytest.mark.parametrize("more", [b'["test", 12, 1', b""])
def test_of_a_note_that_was_cut_off_nothing_is_read(address, more):
    location_of(address).make()
    location_of(address).write([(tally_name(0, 0), Note("test", 6, 5).line() + more)])
    assert noted(address, 20) == 5


@pytest.mark.parametrize(
    "line",
    [b"{}", b"[", b"5", b"[1, 2, 3]", b'["test", 1.5, 2]', b'["test", -2, 2]',
     b'["test", true, 2]', b'["test", 1, 99999999999999999999]', b'["Other", 1, 1]',
     b"[" * 9999, b"\xff"],
)  # fmt: skip
def test_a_tally_that_cannot_be_understood_tells_nothing(address, line):
    location_of(address).make()
    location_of(address).write([(tally_name(0, 0), Note("test", 6, 5).line() + line + b"\n")])
    assert noted(address, 20) is None


def test_the_run_that_is_overwritten_keeps_its_tally_until_it_is_gone(address):
    old = claim_new(address, ATTRIBUTES)
    write(old, ("test", 6, 5)).close()
    old.release()
    new = claim_new(address, {**ATTRIBUTES, "distwatch": {"run": "b"}}, overwrite=True)
    tally = write(new, ("test", 2, 3))
    assert noted(address, 6) == 5
    new.settle()
    tally.close()
    assert noted(address, 6) == 3


def test_a_tally_is_no_reason_to_keep_a_run_without_rows(address):
    claimed = claim_new(address, ATTRIBUTES)
    write(claimed, ("train", 0, 0)).close()
    claimed.release(undo=True)
    assert location_of(address).is_free()


def test_what_cannot_be_noted_is_an_error(tmp_path):
    claimed = claim_new(tmp_path / "run.zarr", ATTRIBUTES)
    (tmp_path / "run.zarr" / tally_name(0, 0)).write_text("there already")
    with pytest.raises(WriteFailedError, match="File exists"):
        write(claimed, ("train", 0, 0))


def test_a_disk_that_does_not_answer_is_waited_for_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tallies, "MAX_WAIT", 0.05)
    answers, waits = threading.Event(), []
    claimed = claim_new(tmp_path / "run.zarr", ATTRIBUTES)
    tally = Tally(location_of(claimed.address), claimed, 0)
    monkeypatch.setattr(Tally, "_opened", lambda self: answers.wait() and None)
    monkeypatch.setattr(tally._is_done, "wait", waits.append)
    for step in range(3):
        tally.note(Note("test", 1, step))
    assert waits == [0.05]
    answers.set()
