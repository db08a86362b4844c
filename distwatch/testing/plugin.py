"""A pytest plugin: ``pytest --replicas 4`` gives a project four replicas on one CPU.

It is loaded wherever distwatch is installed, so it imports nothing large and does
nothing until the option or the ini setting ``distwatch_replicas`` asks for it. Any
conftest or test module may start TensorFlow, whose devices cannot be split afterwards:
the CPU is split at the moment TensorFlow is first imported, or at once where it is
imported already. Tests that need no TensorFlow run without importing it.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import pytest

from distwatch.errors import VirtualDevicesError

#: What the entry point calls this plugin.
_ENTRY_POINT = "distwatch"

_ASK = "pass --replicas 4 to pytest, or set distwatch_replicas = 4 in its configuration"

_TENSORFLOW = "tensorflow"


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """Add the option and the ini setting."""
    _forbid_second_name(pluginmanager)
    group = parser.getgroup("distwatch")
    group.addoption(
        "--replicas",
        metavar="N",
        help="split the CPU into N virtual devices before TensorFlow starts",
    )
    parser.addini("distwatch_replicas", "the same as --replicas", default="")


def _forbid_second_name(pluginmanager: pytest.PytestPluginManager) -> None:
    # The entry point and ``-p distwatch.testing.plugin`` (or ``pytest_plugins``)
    # call one module by two names; pytest would fail at the second.
    for name in (_ENTRY_POINT, __name__):
        if not pluginmanager.has_plugin(name):
            pluginmanager.set_blocked(name)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Have the CPU split before a conftest can start TensorFlow."""
    _split(early_config)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Do the same where a conftest named this plugin, which is too late for the above."""
    _split(config)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Say how many replicas there are."""
    n = _asked(config)
    return f"distwatch: {n} virtual CPU devices" if n is not None else None


@pytest.fixture(scope="session")
def replicas(pytestconfig: pytest.Config) -> int:
    """How many replicas this test run has."""
    n = _asked(pytestconfig)
    if n is None:
        pytest.fail(f"this test needs replicas: {_ASK}.", pytrace=False)
    return n


@pytest.fixture
def strategy(replicas: int) -> Any:
    """A MirroredStrategy over all replicas."""
    from distwatch.testing import mirrored

    return mirrored(replicas)


def _split(config: pytest.Config) -> None:
    """Split the CPU now if TensorFlow is imported, or else as soon as it is."""
    n = _asked(config)
    if n is None:
        return
    if _TENSORFLOW in sys.modules:
        _split_now(n)
    elif not any(isinstance(finder, _SplittingFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _SplittingFinder(lambda: _split_now(n)))


def _split_now(n: int) -> None:
    from distwatch.training.virtual_devices import virtual_devices

    try:
        virtual_devices(n)
    except VirtualDevicesError as error:
        raise pytest.UsageError(str(error)) from error


class _SplittingFinder(importlib.abc.MetaPathFinder):
    """Finds TensorFlow once, as the other finders do, and calls ``split`` after its import.

    Rejected: importing TensorFlow when pytest starts, which takes seconds in each
    process, also for tests that only read; and splitting in the fixture ``replicas``,
    which is too late if a test module has started TensorFlow.
    """

    def __init__(self, split: Callable[[], None]) -> None:
        self._split = split

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _TENSORFLOW:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _SplittingLoader(spec.loader, self._split)
        return spec


class _SplittingLoader(importlib.abc.Loader):
    """Loads a module by its own loader, then calls ``split``."""

    def __init__(self, loader: importlib.abc.Loader, split: Callable[[], None]) -> None:
        self._loader = loader
        self._split = split

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # Importlib and TensorFlow itself read these: the module is the loader's own.
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._split()


def _asked(config: pytest.Config) -> int | None:
    """How many replicas the option asks for, or else the ini setting; None for neither.

    Raises:
        pytest.UsageError: that is not a whole number from 1.
    """
    # Conftests are read before the options are parsed for good.
    options = getattr(config, "known_args_namespace", config.option)
    for name, text in (
        ("--replicas", getattr(options, "replicas", None)),
        ("distwatch_replicas", config.getini("distwatch_replicas") or None),
    ):
        if text is not None:
            return _positive(name, str(text))
    return None


def _positive(name: str, text: str) -> int:
    number = text.strip()
    if not number.isdecimal() or int(number) < 1:
        raise pytest.UsageError(f"{name}={text!r} is not a whole number from 1; {_ASK}.")
    return int(number)
