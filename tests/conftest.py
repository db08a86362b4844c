"""What all tests share: which of them run, the command line, and signals as usual.

``pytest`` runs what a contributor runs: every law, in five minutes. ``--slow`` runs the rest,
too, and ``--only-slow`` the rest alone; both need ``--replicas 8``:

- tests marked ``slow``, which start programs, browsers or several workers;
- the cases of a parametrized test that its mark ``fast_cases`` does not name, by their ids or
  patterns of them: the fast suite tries each value, the slow one every combination;
- tests marked ``keras``, which show faults of Keras that distwatch warns of: they fail when
  Keras no longer has the fault, and prove nothing about distwatch.

A test that is named by its id, or by a marker expression, runs without the option.
"""

import gc
import signal
import sys
from fnmatch import fnmatchcase

import pytest

from distwatch import cli

pytest_plugins = "pytester"


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the slow tests, too")
    parser.addoption(
        "--only-slow", action="store_true", help="run the slow tests, and no other"
    )
    parser.addoption(
        "--whole-matrix",
        action="store_true",
        help="try every strategy, kind of model and mode, every cell of the bits, and every "
        "program with every configuration (hours)",
    )


def pytest_collection_modifyitems(config, items):
    unknown = _mark_slow_cases(items)
    if unknown and not _named(config):
        raise pytest.UsageError(f"fast_cases that there are not: {', '.join(sorted(unknown))}")
    if unlike := [item.nodeid for item in items if " at 0x" in item.nodeid]:
        raise pytest.UsageError(f"cases named otherwise in each process: {', '.join(unlike)}")
    if config.option.slow or config.option.markexpr or _named(config):
        return
    only_slow = config.option.only_slow
    left_out = [item for item in items if _is_slow(item) != only_slow]
    items[:] = [item for item in items if _is_slow(item) == only_slow]
    config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish():
    """Let the garbage collector pass over what was imported: it stays as long as the process.

    `keras.utils.clear_session` collects all garbage, and took a sixth of a test's time to look
    at TensorFlow's and Keras's modules again.
    """
    gc.collect()
    gc.freeze()


def _mark_slow_cases(items):
    """Mark the cases that ``fast_cases`` does not name; returns those that it names in vain."""
    named, found = set(), set()
    for item in items:
        for mark in item.iter_markers("fast_cases"):
            test = item.nodeid.partition("[")[0]
            fast = {case for case in mark.args if fnmatchcase(item.callspec.id, case)}
            named |= {f"{test}[{case}]" for case in mark.args}
            found |= {f"{test}[{case}]" for case in fast}
            if not fast:
                item.add_marker("slow")
    return named - found


def _is_slow(item):
    return any(item.get_closest_marker(name) for name in ("slow", "keras"))


def _named(config):
    """Whether single tests were asked for."""
    return any("::" in str(argument) for argument in config.args)


@pytest.fixture
def interruptible():
    """Processes that a test starts are interrupted by SIGINT.

    A suite that a shell starts in the background (by ``&`` or ``nohup``) ignores SIGINT, and
    hands that on to what it starts. Python's own handler is not handed on.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command line in this process: exit code, stdout and stderr."""

    def run(*arguments, width=120):
        monkeypatch.setattr(sys, "argv", ["distwatch", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.delenv("FORCE_COLOR", raising=False)
        with pytest.raises(SystemExit) as end:
            cli.main()
        said = capsys.readouterr()
        return end.value.code or 0, said.out, said.err

    return run
