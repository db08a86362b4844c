"""Trainings in a process of their own, and what they show about TensorFlow and its devices."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import distwatch
from distwatch.cli.doctor.findings import Finding, graded, note, ok, problem, warning
from distwatch.text import printable

#: Seconds in which a tiny training ends on any machine, also from a slow network disk.
TIMEOUT = 180.0

_CHILD = (sys.executable, "-P", "-m", "distwatch.cli.doctor.child")

#: An error's message is its last line, which may be long.
_LONGEST = 300

_BY_HAND = "see its own output: python -c 'import tensorflow'"


class Outcome(NamedTuple):
    """What a child process reported, and how it failed: empty if it did not."""

    reported: Mapping[str, Any]
    failure: str = ""
    remedy: str = ""


def look_at_trainings(timeout: float = TIMEOUT) -> Iterator[Finding]:
    """What TensorFlow can do here, as seen from trainings on CPUs and on GPUs."""
    if importlib.util.find_spec("tensorflow") is None:
        yield note(
            "TensorFlow",
            "not installed: runs can be read here, and no training can be watched",
            'pip install "distwatch[tensorflow]"',
        )
        return
    yield _backend()
    cpu = train_apart("cpu", timeout)
    for key, name, failure, finding in (
        ("loaded", "TensorFlow", "does not start", _loaded),
        ("devices", "devices", "cannot be listed", _devices),
    ):
        if key not in cpu.reported:
            yield problem(name, f"{failure}: {cpu.failure}", cpu.remedy)
            return
        yield finding(cpu.reported)
    yield _training("training on CPUs", cpu)
    if cpu.reported["gpus"]:
        yield _training("training on GPUs", train_apart("gpu", timeout))


def train_apart(kind: str, timeout: float, command: tuple[str, ...] = _CHILD) -> Outcome:
    """Have a process of its own train on ``"cpu"`` or ``"gpu"``."""
    process = subprocess.Popen(
        [*command, kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        env=_environment(),
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _kill(process)
        out, _ = process.communicate()
        remedy = f"{_BY_HAND}; or allow more time with --timeout."
        return Outcome(_reported(out), f"not done within {timeout:g} s, and killed", remedy)
    finally:
        # Also when Ctrl-C ends the doctor.
        _kill(process)
    return Outcome(_reported(out), *_failure(process.returncode, err.decode(errors="replace")))


def _environment() -> dict[str, str]:
    # The child finds the distwatch that asks, however that was found; what Keras runs on is
    # looked at apart from whether TensorFlow works.
    paths = [str(Path(distwatch.__file__).parents[1]), os.environ.get("PYTHONPATH")]
    return {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it has started."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _reported(out: bytes) -> dict[str, Any]:
    reported: dict[str, Any] = {}
    for line in out.splitlines():
        # The last one may be cut off.
        with contextlib.suppress(ValueError):
            reported.update(json.loads(line))
    return reported


def _failure(code: int, err: str) -> tuple[str, str]:
    """What went wrong and what to do, by how a process ended; two empty texts if well."""
    if code == 0:
        return "", ""
    last = printable(err.strip().rpartition("\n")[2])[:_LONGEST] or "no output"
    if code > 0:
        return last, _BY_HAND
    name = signal.Signals(-code).name
    remedies = {
        "SIGILL": "this CPU lacks instructions (often AVX) that this build of TensorFlow "
        "uses; take a build for it, such as conda-forge's.",
        "SIGKILL": "usually memory ran out; free some, or raise the limit of the job.",
    }
    return f"it was killed by {name}; its last output: {last}", remedies.get(name, _BY_HAND)


def _loaded(reported: Mapping[str, Any]) -> Finding:
    took = reported["seconds_to_load"]
    text = f"{reported['loaded']} starts in {took:.1f} s"
    return ok("TensorFlow", text, figures={"seconds": took})


def _backend() -> Finding:
    """The backend that the environment, or Keras's own file, chooses for Keras."""
    name = "Keras's backend"
    try:
        home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras")
        written = json.loads((home / "keras.json").read_text())["backend"]
    except (OSError, RuntimeError, ValueError, TypeError, KeyError):
        written = "tensorflow"
    backend = os.environ.get("KERAS_BACKEND") or written
    if backend == "tensorflow":
        return ok(name, backend)
    text = f"{backend}, and distwatch watches Keras on TensorFlow"
    remedy = "set KERAS_BACKEND=tensorflow, or 'backend' in ~/.keras/keras.json."
    return problem(name, text, remedy)


def _devices(reported: Mapping[str, Any]) -> Finding:
    """The devices, and a GPU that is there without TensorFlow knowing."""
    listed = ", ".join(f"{n} x {kind}" for kind, n in Counter(reported["devices"]).items())
    card = None if reported["gpus"] else nvidia_card()
    if card is None:
        alone = "" if reported["gpus"] else "; more replicas by virtual CPUs"
        return ok("devices", f"{listed}{alone}", figures={"gpus": reported["gpus"]})
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden in ("", "-1"):
        remedy = f"CUDA_VISIBLE_DEVICES={hidden!r} hides it: unset that."
    elif not reported["cuda"]:
        remedy = "this TensorFlow was built without CUDA: pip install 'tensorflow[and-cuda]'"
    else:
        remedy = "CUDA's libraries are missing or old: pip install 'tensorflow[and-cuda]'"
    return warning("devices", f"{listed}; TensorFlow does not see {card}", remedy, {"gpus": 0})


def nvidia_card() -> str | None:
    """What says that there is an NVIDIA GPU, whether TensorFlow sees it or not."""
    if Path("/dev/nvidia0").exists():
        return "the GPU at /dev/nvidia0"
    try:
        listed = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    first = printable(listed.stdout.partition("\n")[0])
    return first if listed.returncode == 0 and first.startswith("GPU") else None


def _training(name: str, outcome: Outcome) -> Finding:
    reported = outcome.reported
    if "due" not in reported:
        return problem(name, f"failed: {outcome.failure}", outcome.remedy)
    rows, due, wrong, took = (reported[key] for key in ("rows", "due", "wrong", "seconds"))
    text = f"{reported['strategy']}: {rows} of {due} rows kept, {wrong} wrong, in {took:.1f} s"
    remedy = "please report it, with the output of this command."
    figures = {"rows": rows, "seconds": took}
    return graded(name, text, remedy, figures, is_problem=rows != due or wrong > 0)
