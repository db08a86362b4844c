"""A pytest plugin: ``pytest --replicas 4`` gives a project four replicas on one CPU.

It is loaded wherever distwatch is installed, so it imports nothing large and does
nothing until the option or the ini setting ``distwatch_replicas`` asks for it.
Then the CPU is split before the first conftest is read, since any test module may
start TensorFlow, and its devices cannot be split afterwards.
"""

from __future__ import annotations

from typing import Any

import pytest

from distwatch.errors import VirtualDevicesError

#: What the entry point calls this plugin.
_ENTRY_POINT = "distwatch"

_ASK = "pass --replicas 4 to pytest, or set distwatch_replicas = 4 in its configuration"


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
    """Split the CPU before a conftest can start TensorFlow."""
    _split(early_config)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Split the CPU where a conftest named this plugin, which is too late for the above."""
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
    n = _asked(config)
    if n is None:
        return
    from distwatch.training.strategies import virtual_devices

    try:
        virtual_devices(n)
    except VirtualDevicesError as error:
        raise pytest.UsageError(str(error)) from error


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
