"""Open runs are closed before the process ends: at its exit, and at SIGTERM.

Python lets a process that is terminated die without running anything, and its interpreter
shuts down what Zarr needs before daemon threads are done.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

Close = Callable[[], None]


class _Shutdown:
    """What is to be closed, and the handler of SIGTERM while there is anything."""

    def __init__(self) -> None:
        self._closes: list[Close] = []
        self._busy = 0
        self._terminated = False
        self._handling = False
        self._before_pools = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def register(self, close: Close) -> None:
        self._closes.append(close)
        # Anew each time: what was registered last runs first, and so before Zarr's event
        # loop stops.
        atexit.unregister(self.close_all)
        atexit.register(self.close_all)
        self._close_before_pools()
        if not self._handling and _is_ours_to_handle():
            signal.signal(signal.SIGTERM, self._on_terminate)
            self._handling = True

    def _close_before_pools(self) -> None:
        """Have runs closed at exit while `concurrent.futures` still takes work.

        Zarr reads on its threads (a run that is thinned out, all URLs), and it shuts down
        before any function of `atexit` is called. Its own way to be called then is private
        in Python, and is called in reverse order: where it is gone, `atexit` remains.
        """
        at_exit = getattr(threading, "_register_atexit", None)
        if at_exit is None or self._before_pools:
            return
        self._before_pools = True
        # Loaded now, or it would be registered later, and so be called before.
        importlib.import_module("concurrent.futures.thread")
        with contextlib.suppress(RuntimeError):  # the interpreter exits already
            at_exit(self.close_all)

    def unregister(self, close: Close) -> None:
        if close in self._closes:
            self._closes.remove(close)
        if not self._closes:
            self._stop_handling()

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer SIGTERM: rows between ring and queue would be lost with the process."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            if self._terminated and not self._busy:
                self._terminate()

    def close_all(self) -> None:
        while self._closes:
            self._closes.pop()()

    def _on_terminate(self, number: int, frame: Any) -> None:
        self._terminated = True
        if not self._busy:
            self._terminate()

    def _terminate(self) -> None:
        """Close everything, and then die of the signal as if it had never been handled."""
        self._terminated = False
        try:
            self.close_all()
        finally:
            self._stop_handling()
            os.kill(os.getpid(), signal.SIGTERM)

    def _stop_handling(self) -> None:
        if self._handling and threading.current_thread() is threading.main_thread():
            if signal.getsignal(signal.SIGTERM) == self._on_terminate:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
            self._handling = False

    def _forget(self) -> None:
        """Drop the parent's runs in a forked child."""
        self._closes.clear()
        self._busy, self._terminated = 0, False
        self._stop_handling()


def _is_ours_to_handle() -> bool:
    """Only where no other handler is set, and in the main thread, as Python demands."""
    main = threading.current_thread() is threading.main_thread()
    return main and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


_shutdown = _Shutdown()

#: Have ``close`` called before the process ends, the latest one first.
register = _shutdown.register
#: Undo that.
unregister = _shutdown.unregister
#: A context manager that defers SIGTERM.
termination_deferred = _shutdown.deferred
