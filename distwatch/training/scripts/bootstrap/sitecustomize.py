"""What Python imports as it starts under ``distwatch run``: it waits for Keras.

It takes itself out at once: out of the environment, so that processes which the script
starts are neither watched nor disturbed, and out of the path; a ``sitecustomize`` of the
user's own still runs. Nothing of distwatch and no library is imported before the script
itself imports Keras: it may set environment variables or split devices first.

Rejected: running the script by `runpy` in the process of ``distwatch run``. Its
``__main__`` would be another module, so that pickles and spawned processes could not find
it, and tracebacks would begin with frames of ours.
"""

from __future__ import annotations

import atexit
import os
import sys
from typing import Any

#: The environment variable that carries the settings, as JSON; see `launching`.
VARIABLE = "DISTWATCH_RUN"


class _AfterKeras:
    """Finds Keras as the other finders do, and calls `watch_fits` when it is loaded."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._process = os.getpid()
        #: What is watched, once Keras is there.
        self._fits: Any = None
        self._failure: Exception | None = None

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "keras":
            return None
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    self._wrap(spec.loader)
                    return spec
        return None

    def _wrap(self, loader: Any) -> None:
        def exec_module(module: Any) -> None:
            del loader.exec_module
            loader.exec_module(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                self._begin()

        # By this Python leaves it out of the traceback of a Keras that cannot be imported,
        # together with what else imports modules.
        code = type(loader).exec_module.__code__
        exec_module.__code__ = exec_module.__code__.replace(co_filename=code.co_filename)
        loader.exec_module = exec_module

    def _begin(self) -> None:
        """Watch fits from now on; an error here must not be the script's."""
        import warnings

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._fits = _begin(self._settings)
        except Exception as error:
            self._failure = error

    def close(self) -> None:
        """Say on stderr, when the process ends, what was watched."""
        if os.getpid() != self._process:
            return
        if self._fits is not None:
            self._fits.clean_up()
        if self._settings["quiet"]:
            return
        try:
            for line in self._lines():
                print(f"distwatch: {line}", file=sys.stderr)
        except (OSError, ValueError):
            pass  # stderr is closed.

    def _lines(self) -> list[str]:
        if self._failure is not None:
            kind = "" if type(self._failure) is RuntimeError else type(self._failure).__name__
            reason = " ".join(f"{kind}: {self._failure}".removeprefix(": ").split())
            return [f"nothing was watched: {reason}"]
        if "tf_keras" in sys.modules:
            return ["tf_keras (Keras 2) was in use, which is not watched; Keras 3 is."]
        if self._fits is None:
            return ["Keras was not imported, so nothing was watched."]
        return list(self._fits.closing_lines())


def _begin(settings: dict[str, Any]) -> Any:
    keras = sys.modules["keras"]
    # Before anything is imported that imports TensorFlow.
    if int(keras.__version__.split(".")[0]) < 3:
        raise RuntimeError(f"this is Keras {keras.__version__}; Keras 3 is watched.")
    if (backend := keras.backend.backend()) != "tensorflow":
        raise RuntimeError(f"Keras runs on {backend}; its training on TensorFlow is watched.")
    # Where the path has no distwatch, as when it was started from a checkout.
    sys.path.append(settings["home"])
    try:
        if "measure" in settings:
            from distwatch.training.scripts.measured_fit import MeasuredFit

            return MeasuredFit(settings)
        from distwatch.training.scripts.watched_fits import watch_fits

        return watch_fits(settings)
    finally:
        if settings["home"] in sys.path:
            del sys.path[len(sys.path) - 1 - sys.path[::-1].index(settings["home"])]


def _take_out() -> dict[str, Any] | None:
    """Leave environment and path as they would be, and return the settings."""
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    if here in sys.path:
        sys.path.remove(here)
    sys.path_importer_cache.pop(here, None)
    given = os.environ.pop(VARIABLE, None)
    if given is None:
        return None
    import json

    settings: dict[str, Any] = json.loads(given)
    if settings["pythonpath"] is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = settings["pythonpath"]
    return settings


if __name__ == "sitecustomize":
    _settings = _take_out()
    if _settings is not None:
        _after_keras = _AfterKeras(_settings)
        sys.meta_path.insert(0, _after_keras)
        # First of all, so that it is called last: runs are closed by then.
        atexit.register(_after_keras.close)
    # The user's own in its place. If there is none, Python takes this error as what it is.
    del sys.modules["sitecustomize"]
    import sitecustomize  # type: ignore[import-not-found]  # noqa: F401
