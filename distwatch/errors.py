"""Every error distwatch raises, grouped by what a caller would do about it.

::

    DistwatchError
    ├── SetupError                 change the call, the model or the configuration
    │   ├── ConfigError            an argument or a configuration key is wrong
    │   ├── UnknownSignalError     what was named does not exist
    │   ├── NothingToWatchError    the model has no layer that could be watched
    │   ├── UnwatchableError       a layer was named whose output cannot be watched correctly
    │   ├── WatchInUseError        one Watch was given to two fits at once
    │   ├── UnsupportedTrainingError  Keras itself cannot train like this
    │   ├── BackendError           TensorFlow is missing or Keras runs on another backend
    │   └── VirtualDevicesError    TensorFlow started before its devices were split
    ├── StoreError                 choose another path or another store
    │   ├── RunExistsError         the path holds a run already
    │   ├── RunInUseError          another process is writing the run
    │   ├── RunTakenError          the run is no longer the one that was claimed
    │   ├── NotARunError           the path holds no run
    │   ├── FormatVersionError     a newer distwatch wrote this store
    │   ├── DamagedStoreError      the store contradicts its own description
    │   ├── NotWritableError       the path cannot be written
    │   ├── UnreachableError       the store did not answer, or refused to
    │   ├── BudgetReachedError     the run has reached its limit of bytes
    │   ├── RunChangedError        what was opened has been replaced: open it again
    │   └── WriteFailedError       writing failed after training had started
    ├── StateShapeError            two states do not describe the same signals
    └── WatcherError               the watcher itself failed: please report it

    DistwatchWarning
    ├── WatcherDisabledWarning     watching stopped, training goes on
    ├── RowsLostWarning            rows are missing from the store, and counted there
    ├── RowsThinnedWarning         old steps are removed, to keep within max_bytes
    ├── RowsReplacedWarning        a resumed training starts over and replaces all rows
    ├── RunInUseWarning            a run may still be written by a process: waiting for its end
    ├── DamagedRowsWarning         rows that cannot be read are left out
    ├── DamagedDigestWarning       what is kept beside rows is damaged: the rows are read
    ├── UnwatchedWarning           some of what was asked for is not there to be watched
    ├── ActionFailedWarning        an action on a finding, or a user's rule, failed
    ├── EventFilesWarning          TensorBoard's files are incomplete, the store is not
    ├── RoundingWarning            last digits of what is watched may differ from unwatched
    └── KnownTrapWarning           a fault of Keras changes this training

Errors of the first group are raised before the first training step, so nothing
that took time is lost by them.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

#: How alike two words are, from 0 to 1, of which one may have been meant for the other.
_CLOSE = 0.6
#: So few words are all named where none is close.
_ALL = 4


class DistwatchError(Exception):
    """The root: ``except DistwatchError`` catches everything distwatch raises."""

    if not TYPE_CHECKING:
        # By this AutoGraph knows that it can pass an error on as what it is; one with an
        # __init__ of its own it would turn into its own StagingError.
        __init__ = Exception.__init__


class SetupError(DistwatchError):
    """The call, the model or the configuration has to change."""


class ConfigError(SetupError, ValueError):
    """An argument or a configuration key is wrong."""


class UnknownSignalError(SetupError, ValueError):
    """What was named is not in the model, or a run has no such signal."""


class NothingToWatchError(SetupError, ValueError):
    """The model has no layer that could be watched."""


class UnwatchableError(SetupError, TypeError):
    """A layer was named whose output cannot be watched correctly."""


class WatchInUseError(SetupError, RuntimeError):
    """One Watch was given to two fits at once."""


class UnsupportedTrainingError(SetupError, RuntimeError):
    """Keras itself cannot train this model in this way."""


class BackendError(SetupError, RuntimeError):
    """TensorFlow is missing, or Keras runs on another backend."""


class VirtualDevicesError(SetupError, RuntimeError):
    """TensorFlow started before its devices were split."""


class StoreError(DistwatchError):
    """Another path or another store is needed."""


class RunExistsError(StoreError, FileExistsError):
    """The path holds a run already."""


class RunInUseError(StoreError, RuntimeError):
    """Another process is writing the run."""


class RunTakenError(StoreError, RuntimeError):
    """The run is no longer the one that was claimed: it was replaced, moved or deleted."""


class NotARunError(StoreError, ValueError):
    """The path holds no run."""


class FormatVersionError(StoreError, ValueError):
    """The store was written in a format that this distwatch does not know."""


class DamagedStoreError(StoreError, ValueError):
    """The store contradicts its own description."""

    #: Whether only chunks are damaged, without which the rest can be read.
    in_chunks = False


class NotWritableError(StoreError, PermissionError):
    """The path cannot be written."""


class UnreachableError(StoreError, OSError):
    """The store did not answer, or refused to."""


class BudgetReachedError(StoreError, RuntimeError):
    """The run has reached its limit of bytes."""


class RunChangedError(StoreError, RuntimeError):
    """What was opened has been replaced; open it again."""


class WriteFailedError(StoreError, OSError):
    """Writing failed after training had started."""


class StateShapeError(DistwatchError, ValueError):
    """Two states do not describe the same signals."""


class WatcherError(DistwatchError, RuntimeError):
    """The watcher itself failed."""


class DistwatchWarning(UserWarning):
    """The root of all warnings."""


class WatcherDisabledWarning(DistwatchWarning):
    """Watching stopped; training goes on."""


class RowsLostWarning(DistwatchWarning):
    """Rows are missing from the store, and counted there."""


class RowsThinnedWarning(DistwatchWarning):
    """Old steps are removed from the store, to keep it within its budget."""


class RowsReplacedWarning(DistwatchWarning):
    """A resumed training starts over from step 0 and replaces all rows of its run."""


class RunInUseWarning(DistwatchWarning):
    """Whether a run is still written is not known yet: its lock is watched for a while."""


class DamagedRowsWarning(DistwatchWarning):
    """Rows whose chunks are damaged are left out of what is read."""


class DamagedDigestWarning(DistwatchWarning):
    """The digest beside a run's rows cannot be understood; the rows are read instead."""


class UnwatchedWarning(DistwatchWarning):
    """Some of what was asked for cannot be watched, and is listed in the run."""


class ActionFailedWarning(DistwatchWarning):
    """An action on a finding, or a rule of the user's own, failed; training goes on."""


class EventFilesWarning(DistwatchWarning):
    """Steps are missing from TensorBoard's event files, but not from the store."""


class RoundingWarning(DistwatchWarning):
    """The last digits of a training or evaluation may differ from those without a Watch."""


class KnownTrapWarning(DistwatchWarning):
    """A known fault of Keras changes the results of this training."""


def needs_tensorflow(what: str, missing: str) -> BackendError:
    """The error that says what to install where TensorFlow or Keras is missing.

    Args:
        what: what was asked for, as in ``"distwatch.Watch"``.
        missing: ``"tensorflow"`` or ``"keras"``.
    """
    # Keras is imported first, so it is what is missed where there is neither. The extra would
    # put a second TensorFlow beside tensorflow-cpu or a cluster's own build.
    if importlib.util.find_spec("tensorflow") is None:
        missing, install = "tensorflow", '"distwatch[tensorflow]"'
    else:
        install = missing
    return BackendError(
        f"{what} needs {missing}, which is not installed: pip install {install}. "
        "Reading runs needs neither TensorFlow nor Keras."
    )


@contextmanager
def training_imports(what: str) -> Iterator[None]:
    """Around imports of ``distwatch.training``: say what to install if they cannot be had.

    Args:
        what: what was asked for, as in ``"distwatch.Watch"``.

    Raises:
        BackendError: TensorFlow or Keras is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("tensorflow", "keras"):
            raise
        raise needs_tensorflow(what, error.name) from None


def nearest(word: str, known: list[str], most: int = 3) -> str:
    """Name the known words close to ``word``, for the end of an error message.

    Close is what is spelled alike, as a whole or in its last part between slashes, or what
    contains the word. Where nothing is, the words that there are are named instead.
    """
    import difflib

    def likeness(name: str) -> float:
        parts = {name, name.rpartition("/")[2]}
        alike = max(difflib.SequenceMatcher(None, word, part).ratio() for part in parts)
        return max(alike, _CLOSE * (len(word) > 2 and word in name))

    # Of two letters one may be wrong, too.
    enough = 0.5 if len(word) == 2 else _CLOSE
    likest = sorted(known, key=likeness, reverse=True)[:most]
    if close := [repr(name) for name in likest if likeness(name) >= enough]:
        return ", ".join(close)
    few = len(known) if len(known) <= _ALL else 2 * most
    more = f", ... ({len(known)} in all)" if len(known) > few else ""
    there = f"{', '.join(map(repr, known[:few]))}{more}"
    return f"none close; there are {there}" if known else "none"
