"""A Watch in a script that did not ask for one: it never refuses, and prints nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distwatch.findings import WARNING
from distwatch.store.addresses import Address
from distwatch.training.session import Session
from distwatch.training.watch import Watch


@dataclass
class Outcome:
    """What became of one call of ``fit``; it is filled in while that goes on."""

    name: str
    committed: int = 0
    #: Where its run is.
    path: Address | None = None
    #: Why it was not watched, or not to its end.
    reason: str = ""
    #: What its findings warn of, a text each; None as long as it is not known.
    warnings: tuple[str, ...] | None = None

    def end(self, error: Exception, report: Callable[[str], None], steps: int = 0) -> None:
        """Keep, and report, the error that ended the watching after some steps."""
        self.reason = f"{type(error).__name__}: {error}"
        since = f" after {steps} steps" if steps else ""
        report(f"{self.name} is not watched{since}, training goes on: {self.reason}")


def _guarded(name: str) -> Callable[..., None]:
    original = getattr(Watch, name)

    @functools.wraps(original)
    def callback(self: UnobtrusiveWatch, *args: Any, **kwargs: Any) -> None:
        if self.gave_up:
            return
        try:
            original(self, *args, **kwargs)
        except Exception as error:
            if self.config.strict:
                raise
            self.give_up(error)
        finally:
            self.update_outcome()

    return callback


class UnobtrusiveWatch(Watch):
    """A Watch that leaves a fit which it cannot watch to go on as if it were not there.

    A refusal comes when the fit has started: Keras may have drawn from the data to build the
    model by then, so to call ``fit`` once more would be another training. The Watch takes its
    taps out instead, and the fit goes on with the functions that Keras would have made.
    On several workers all of them have to refuse alike, as they do with one model, one
    configuration and one store, since a claim on the store is made by all of them together.

    Args:
        outcome: is updated with how it went.
        report: prints on stderr why a fit is not watched.
        arguments: those of a `Watch`; ``strict=True`` raises refusals after all.
    """

    _refuses = False

    def __init__(
        self, outcome: Outcome, report: Callable[[str], None], **arguments: Any
    ) -> None:
        self.outcome = outcome
        self.gave_up = False
        self._report = report
        super().__init__(**arguments)

    def set_params(self, params: dict[str, Any]) -> None:
        """Stdout is the script's."""
        super().set_params({**(params or {}), "verbose": 0})

    def on_raised(self, model: Any, error: BaseException) -> None:
        """Close the run; to the script's own error nothing is added."""
        if self._functions:
            _on_raised(self, model, error)
            self._note_warnings()

    def give_up(self, error: Exception) -> None:
        """Let the fit go on without being watched."""
        self.gave_up = True
        names = self._functions.names
        self._release()
        for name in names:
            if getattr(self.model, name) is None:
                # Keras has passed the place where it makes it.
                getattr(self.model, f"make_{name}")()
        if self._session is not None:
            self._session.error = error
            self._session.abandon()
        self.outcome.end(error, self._report, self.status.steps)

    def update_outcome(self) -> None:
        """Update the outcome, and report once that the watching has ended."""
        status = self.status
        self.outcome.committed, self.outcome.path = status.committed, self.path
        if status.error is not None and not self.outcome.reason:
            self.outcome.end(status.error, self._report, status.steps)

    def _finish(self) -> None:
        super()._finish()
        session = self._session
        if session is not None and session.error is not None and not session.status.steps:
            session.abandon()  # takes back the claim on which nothing was written
        self._note_warnings()

    def _note_warnings(self) -> None:
        # The session itself is not kept until the script ends: it holds graphs.
        if self._session is not None:
            self.outcome.warnings = _warnings_of(self._session)


def _warnings_of(session: Session) -> tuple[str, ...]:
    """The texts of its warnings; that they cannot be made ends nothing."""
    try:
        return tuple(each.text for each in session.findings() if each.severity == WARNING)
    except Exception as error:
        return (f"what stands out cannot be said ({type(error).__name__}: {error}).",)


_on_raised = _guarded("on_raised")

for _name in [
    "on_called",
    "set_model",
    *(name for name in vars(Watch) if name.endswith(("_begin", "_end")) and name[:3] == "on_"),
]:
    setattr(UnobtrusiveWatch, _name, _guarded(_name))
