"""Giving each ``fit`` of a script a Watch of its own.

The place is ``keras.Model.fit`` itself, around the wrapper of `distwatch.keras_calls`, as soon
as Keras is imported: before the script looks it up, or a subclass calls it by ``super()``.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import keras

import distwatch
from distwatch.errors import DistwatchWarning, UnsupportedTrainingError
from distwatch.keras_calls import wrap_method
from distwatch.records import PREDICT, TEST, TRAIN
from distwatch.store.addresses import Address, address_of, inside
from distwatch.store.locations import Location
from distwatch.store.new_runs import FolderOfRuns, name_of, new_folder
from distwatch.text import counted, listed, printable

if TYPE_CHECKING:
    from distwatch.training.scripts.unobtrusive import Outcome

#: Method -> the phases for whose sake it is watched.
_PHASES = {"fit": {TRAIN, TEST}, "evaluate": {TEST}, "predict": {PREDICT}}

#: How many fits that were not watched are listed one by one when the script ends.
_LISTED = 5

_HOME = str(Path(distwatch.__file__).parent) + os.sep


def watch_fits(settings: dict[str, Any]) -> WatchedFits:
    """Have every fit from now on watched.

    Args:
        settings: what `launching` says: "arguments" of each Watch, the "store" below which
            runs lie, and how that is "shown" to people.
    """
    fits = WatchedFits(settings)
    for method in _PHASES:
        wrap_method(keras.Model, method, fits.call)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=fits.stop)
    # Warnings that a script makes errors of would otherwise end the watching.
    warnings.filterwarnings("default", category=DistwatchWarning)
    _leave_tracebacks_alone()
    return fits


class WatchedFits:
    """The fits of a script, by the order in which they were called."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._arguments = dict(settings["arguments"])
        self._phases = set(self._arguments.get("phases") or (TRAIN,))
        self._store = address_of(settings["store"])
        self._shown = settings["shown"]
        self._title: str | None = settings.get("title")
        self._is_further_worker = bool(settings.get("is_further_worker"))
        #: The folder of this start, where each start has one of its own.
        self._start: Location | None = None
        self._lock = threading.Lock()
        self._numbers: Counter[str] = Counter()
        self._outcomes: list[Outcome] = []
        #: Fits that have a Watch of the script's own.
        self._own = 0
        self._stopped = False

    def stop(self) -> None:
        """Watch no more: a forked child is another process, whose runs would collide."""
        self._stopped = True

    def call(
        self,
        method: str,
        go: Callable[[], Any],
        model: Any,
        arguments: dict[str, Any],
    ) -> Any:
        """What runs in place of a method of Keras, see `wrap_method`."""
        given = arguments.get("callbacks")
        if (watch := self._watch_for(method, model, given)) is not None:
            arguments["callbacks"] = [*callbacks_in(given), watch]
        return go()

    def clean_up(self) -> None:
        """Remove the folder of this start, once runs are closed, if no run is in it."""
        if self._start is not None:
            self._start.unmake()

    def closing_lines(self) -> Iterator[str]:
        """What was written, what to do next, and what was not watched."""
        written = [each for each in self._outcomes if each.committed]
        refused = [each for each in self._outcomes if each.reason]
        if written:
            yield self._describe([each.name for each in written])
            warned = [each for each in written if each.warnings]
            yield from self._warn(warned)
            known = all(each.warnings is not None for each in written)
            if known and not warned and not refused:
                yield "nothing unusual in it." if len(written) == 1 else "nothing unusual."
            first = inside(self._where, f"{[*warned, *written][0].name}.zarr")
            yield f"look at it by: distwatch report {shlex.quote(str(first))}"
        elif self._own:
            yield f"the script watches by itself ({self._own} fits); nothing was added."
        elif not self._outcomes:
            yield "the script called no fit of Keras, so nothing was watched."
        elif not refused:
            yield "no fit came to its first step, so nothing was written."
        if refused:
            were = "was" if len(refused) == 1 else "were"
            whole = "" if not any(each.committed for each in refused) else " to the end"
            total = f"{len(refused)} of {len(self._outcomes)} fits {were} not watched{whole}"
            reasons = [f"{each.name}: {printable(each.reason)}" for each in refused[:_LISTED]]
            reasons += ["..."] if len(refused) > _LISTED else []
            yield f"{total}: {'; '.join(reasons)}"

    @property
    def _where(self) -> Address:
        """The folder of the runs, as people are shown it."""
        shown = address_of(self._shown)
        paths = [each.path for each in self._outcomes if each.path is not None]
        if self._title is not None and paths:
            # Of further workers only the claim has brought it.
            return inside(shown, Path(paths[0]).parent.name)
        return shown

    def _describe(self, written: list[str]) -> str:
        total = "1 run was" if len(written) == 1 else f"{len(written)} runs were"
        names = [f"{name}.zarr" for name in written]
        kind, _, first = written[0].rpartition("-")
        if len(names) > _LISTED and written == [
            f"{kind}-{number:03d}" for number in range(int(first), int(first) + len(names))
        ]:
            said = f"{names[0]} to {names[-1]}"
        else:
            more = len(names) - _LISTED
            said = listed([*names[:_LISTED], *([f"{more} more"] if more > 0 else [])])
        return f"{total} written: {said} in {printable(str(self._where))}"

    def _warn(self, warned: Sequence[Outcome]) -> Iterator[str]:
        """What the findings of the first runs warn of; of each its first warning."""
        for each in warned[:_LISTED]:
            first, *others = map(printable, each.warnings or ())
            more = f" ({counted(len(others), 'more warning')}.)" if others else ""
            yield f"{each.name}: {first}{more}"
        if len(warned) > _LISTED:
            where = shlex.quote(str(self._where))
            further = counted(len(warned) - _LISTED, "more run")
            yield f"{further} with warnings; distwatch ls {where} lists them."

    def _watch_for(self, method: str, model: Any, callbacks: Any) -> Any:
        """The Watch for one call; None where it is to be left as it is."""
        if self._stopped or not _PHASES[method] & self._phases:
            return None
        if method != "predict" and not getattr(model, "compiled", False):
            return None  # Keras refuses it
        is_list = isinstance(callbacks, keras.callbacks.CallbackList)
        if is_list and method != "fit":
            return None  # the validation in a fit
        from distwatch.training.scripts.unobtrusive import UnobtrusiveWatch
        from distwatch.training.watch import Watch

        if watches := [each for each in callbacks_in(callbacks) if isinstance(each, Watch)]:
            # Either the script's own, or this one, on its second way through here.
            self._own += not any(isinstance(each, UnobtrusiveWatch) for each in watches)
            return None
        return self._make_watch(method, refused=is_list)

    def _make_watch(self, method: str, *, refused: bool) -> Any:
        from distwatch.training.scripts.unobtrusive import Outcome, UnobtrusiveWatch

        with self._lock:
            outcome = Outcome(f"{method}-{self._numbers[method]:03d}")
            self._numbers[method] += 1
            self._outcomes.append(outcome)
        try:
            if refused:
                raise UnsupportedTrainingError(
                    "its callbacks are a CallbackList, to which none can be added; pass them "
                    "as a list."
                )
            store = self._place_of(f"{outcome.name}.zarr")
            arguments = {**self._arguments, "store": store}
            board = arguments.get("tensorboard")
            # In a folder of runs, event files are where their run is.
            if board and not isinstance(store, FolderOfRuns):
                arguments["tensorboard"] = _below(board, outcome.name)
            return UnobtrusiveWatch(outcome, report, **arguments)
        except Exception as error:
            if self._arguments.get("strict"):
                raise
            outcome.end(error, report)
            return None

    def _place_of(self, name: str) -> Address | FolderOfRuns:
        """Where a run goes. The first worker of several makes the folder of this start."""
        if self._title is None:
            return inside(self._store, name)
        if self._is_further_worker:
            return FolderOfRuns(self._store)
        with self._lock:
            self._start = self._start or new_folder(self._store, self._title)
            start = name_of(self._start.address)
        return FolderOfRuns(self._store, f"{start}/{name}")


def _below(board: Any, name: str) -> dict[str, Any]:
    """Where one fit's event files go: those of two runs cannot share a folder."""
    options = dict(board) if isinstance(board, dict) else {"folder": board}
    return {**options, "folder": str(Path(options["folder"]) / name)}


def report(line: str) -> None:
    """Print a line on stderr; stdout is the script's."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        print(f"distwatch: {printable(line)}", file=sys.stderr, flush=True)


def callbacks_in(callbacks: Any) -> list[Any]:
    """Callbacks in the order in which Keras takes them, in a list that is ours."""
    if not callbacks:
        return []
    return list(keras.tree.flatten(getattr(callbacks, "callbacks", callbacks)))


def _leave_tracebacks_alone() -> None:
    """Keep frames of ours out of what the script's errors print.

    Of an error raised in a fit Keras leaves its own frames out, so ours go there; what it
    does not filter, such as an interrupt, is seen to at the end of the script.
    """
    filtering = sys.modules.get("keras.src.utils.traceback_utils")
    if filtering is not None and hasattr(filtering, "_process_traceback_frames"):
        theirs = filtering._process_traceback_frames

        def process(trace: TracebackType) -> Any:
            _take_out_frames(trace)
            return theirs(trace)

        filtering._process_traceback_frames = process  # type: ignore[attr-defined]
    before = sys.excepthook

    def excepthook(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        for each in _with_origins(error):
            _take_out_frames(each.__traceback__)
        before(kind, error, trace)

    sys.excepthook = excepthook


def _with_origins(error: BaseException) -> list[BaseException]:
    """An error, and those that it came from."""
    found: dict[int, BaseException] = {}
    waiting = [error]
    while waiting:
        each = waiting.pop()
        if id(each) not in found:
            found[id(each)] = each
            waiting += filter(None, (each.__cause__, each.__context__))
    return list(found.values())


def _take_out_frames(trace: TracebackType | None) -> None:
    """Take frames of ours out, in place; the first one is never ours.

    A wrapper of ours stands within Keras's filter, as the function in it does once more: of
    the two frames of that filter the second is taken out, too.
    """
    while trace is not None:
        passed, following = False, trace.tb_next
        while following is not None:
            code = following.tb_frame.f_code
            ours = code.co_filename.startswith(_HOME)
            if not ours and not (passed and code is trace.tb_frame.f_code):
                break
            passed, following = True, following.tb_next
        trace.tb_next, trace = following, following
