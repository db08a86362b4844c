"""Becoming the process of a script, once everything is checked that can be checked before.

The script is run by Python itself, in the place of this process (`os.execve`): so its exit
code, its signals, its streams, its tracebacks, ``__main__``, ``sys.argv`` and what it spawns
are what they would be without distwatch, with nothing to imitate.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from distwatch.config import read_arguments, read_config, watch_config
from distwatch.errors import (
    ConfigError,
    NotWritableError,
    RunExistsError,
    SetupError,
    needs_tensorflow,
)
from distwatch.store.addresses import Address, absolute, address_of, inside, scheme_of
from distwatch.store.new_runs import USUAL, FolderOfRuns, place_of, title_of
from distwatch.training.scripts import bootstrap
from distwatch.training.scripts.bootstrap.sitecustomize import VARIABLE

#: Where runs go if neither the command nor the configuration says: each start of a script
#: has a folder of its own in it.
DEFAULT_STORE = USUAL

#: The same, where runs are to be deleted or continued: they have to be in one place.
KEPT_STORE = "distwatch-runs"

_BOOTSTRAP = Path(bootstrap.__file__).resolve().parent

#: What runs are called, each kind counted from 0.
_RUN_NAME = re.compile(r"(fit|evaluate|predict)-\d{3,}\.zarr")


@dataclass(frozen=True)
class Script:
    """What is run: a file, a folder or zip with a ``__main__.py``, or (``-m``) a module."""

    target: str
    arguments: tuple[str, ...] = ()
    is_module: bool = False

    def check(self) -> None:
        """Refuse what Python could not begin to run.

        Raises:
            ConfigError: there is no such script or module.
        """
        if self.is_module:
            self._check_module()
            return
        if self.target == "-":
            raise ConfigError("a script on stdin cannot be run; save it in a file.")
        path = Path(self.target)
        if not path.exists():
            as_module = " (a module is run by -m)" if path.name == self.target else ""
            raise ConfigError(f"{self.target}: there is no such script{as_module}.")
        if path.is_dir() and not (path / "__main__.py").is_file():
            raise ConfigError(
                f"{self.target} is a folder without a __main__.py; name the script in it."
            )
        if not os.access(path, os.R_OK):
            raise ConfigError(f"{self.target} cannot be read; look at its permissions.")

    def _check_module(self) -> None:
        # The package only: to look into it would import it.
        package = self.target.partition(".")[0]
        here = [] if sys.flags.safe_path else [str(Path.cwd())]
        if package in sys.builtin_module_names:
            return
        if not importlib.machinery.PathFinder.find_spec(package, [*here, *sys.path]):
            raise ConfigError(
                f"-m {self.target}: no module {package!r} is found from here; go to the folder "
                "that holds it, install it, or name the script's file without -m."
            )

    @property
    def name(self) -> str:
        """What it is called, without its folder and ending."""
        if self.is_module:
            return self.target.rpartition(".")[2]
        return title_of(Path(self.target).absolute())

    @property
    def command(self) -> list[str]:
        """What follows Python's own options."""
        if self.is_module:
            return ["-m", self.target, *self.arguments]
        # Python would take it for an option.
        target = f"./{self.target}" if self.target.startswith("-") else self.target
        return [target, *self.arguments]


@dataclass(frozen=True)
class Launch:
    """What a process is replaced by."""

    command: list[str]
    environment: dict[str, str]

    def go(self) -> NoReturn:
        """Become the script's process.

        Raises:
            SetupError: the system does not let that happen.
        """
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        if os.name == "nt":
            # There, execve returns to the shell before the script is done.
            sys.exit(subprocess.call(self.command, env=self.environment))
        try:
            os.execve(self.command[0], self.command, self.environment)
        except OSError as error:
            raise SetupError(
                f"{self.command[0]} cannot be started ({error.strerror or error}); the "
                "arguments and the environment together may be too long for the system."
            ) from error


def prepare(
    script: Script,
    *,
    config: Path | None = None,
    store: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    environment: Mapping[str, str] = os.environ,
) -> Launch:
    """Check what can be checked, and say what is to be started.

    Args:
        script: what is run.
        config: a file with the arguments of each Watch.
        store: the folder or URL in which runs are written, one a fit; with a slash at its
            end, where this start gets a folder of its own. None for what the configuration
            says, or else ``runs/``.
        overwrite: delete the runs that are in there; nothing else is touched.
        quiet: say nothing at the end.
        environment: what the script is to find.

    Raises:
        SetupError: the script, the configuration or this Python cannot be used so.
        StoreError: the runs cannot be written there, or it holds runs already.
    """
    script.check()
    _check_python()
    arguments = read_arguments(config) if config else {}
    overwrite = bool(arguments.get("overwrite")) or overwrite
    resume = bool(arguments.get("resume"))
    usual = KEPT_STORE if overwrite or resume else DEFAULT_STORE
    shown = store or str(arguments.get("store") or usual)
    address = address_of(shown)
    makes_folder = isinstance(place_of(shown), FolderOfRuns) and not (overwrite or resume)
    arguments["store"] = str(inside(address, "fit-000.zarr"))
    _check_arguments(config, arguments)
    if board := arguments.get("tensorboard"):
        # The script may change the folder that it is in, before a fit or in one.
        options = dict(board) if isinstance(board, dict) else {"folder": board}
        arguments["tensorboard"] = {
            **options,
            "folder": str(absolute(address_of(options["folder"]))),
        }
    arguments.pop("overwrite", None)
    if overwrite and resume:
        raise ConfigError("--overwrite and resume: runs are either deleted or continued.")
    is_further_worker = _is_further_worker(environment.get("TF_CONFIG"))
    if not is_further_worker:
        _check_place(address, shown)
        if not makes_folder:
            _make_room(address, shown, overwrite=overwrite, resume=resume)
    settings = {
        "arguments": arguments,
        "store": str(absolute(address)),
        "shown": str(address),
        # What the folder of this start is named by; None where runs go into the store itself.
        "title": script.name if makes_folder else None,
        "is_further_worker": is_further_worker,
        "quiet": quiet,
        "pythonpath": environment.get("PYTHONPATH"),
        "home": str(Path(__file__).resolve().parents[2]),
    }
    path = [str(_BOOTSTRAP), *filter(None, [environment.get("PYTHONPATH")])]
    further = {"PYTHONPATH": os.pathsep.join(path), VARIABLE: json.dumps(settings)}
    command = [sys.executable, *_python_options(sys.orig_argv), *script.command]
    return Launch(command, {**environment, **further})


def _check_python() -> None:
    """Refuse a Python in which nothing could be watched."""
    if not sys.executable:
        raise SetupError("this Python does not know where it lies, so it runs no script.")
    flags = {
        "-I": sys.flags.isolated,
        "-E": sys.flags.ignore_environment,
        "-S": sys.flags.no_site,
    }
    for option, given in flags.items():
        if given:
            raise SetupError(
                f"Python was started with {option}, which keeps anything from being watched in "
                "the script; leave that out."
            )
    for library in ("tensorflow", "keras"):
        if importlib.util.find_spec(library) is None:
            what = f"a script that is run by {sys.executable}, the Python of this distwatch,"
            raise needs_tensorflow(what, library)


def _check_arguments(config: Path | None, arguments: dict[str, Any]) -> None:
    if config is None:
        watch_config(**arguments)
    else:
        # Of what is wrong in a file, it knows the lines.
        read_config(config, store=arguments["store"])
    try:
        json.dumps(arguments)
    except TypeError as error:
        raise ConfigError(f"{config}: {error}" if config else str(error)) from error


def _python_options(given: list[str]) -> list[str]:
    """The options that Python was started with, such as -u, -W and -X.

    Not what they amount to (as `multiprocessing` passes them on): what comes from the
    environment would be there twice.
    """
    options: list[str] = []
    rest = iter(given[1:])
    for option in rest:
        if not option.startswith("-") or option in ("-", "--"):
            break
        special = None if option.startswith("--") else re.search("[cmWX]", option)
        if special and special[0] in "cm":
            options += [option[: special.start()]] if special.start() > 1 else []
            break
        options.append(option)
        if option == "--check-hash-based-pycs" or (special and special.end() == len(option)):
            options += [next(rest, "")]
    return options


def _is_further_worker(tf_config: str | None) -> bool:
    """Whether another process of the same training, the first worker, looks after the store."""
    try:
        described = json.loads(tf_config or "{}")
        kind, index = described["task"]["type"], int(described["task"]["index"])
        first = "chief" if "chief" in described["cluster"] else "worker"
    except (ValueError, KeyError, TypeError):
        return False
    return kind != first or index > 0


def _make_room(address: Address, shown: str, *, overwrite: bool, resume: bool) -> None:
    """Find the place for the runs free, or make it so.

    Rejected: going on with the numbers after those that are there. Which runs belong to one
    start of the script could then not be seen by their names.
    """
    from distwatch.store import delete_run, location_of, run_name

    there = [name for name in location_of(address).children() if _RUN_NAME.fullmatch(name)]
    runs = [name for name in there if run_name(inside(address, name)) is not None]
    if strange := sorted(set(there) - set(runs)):
        raise RunExistsError(
            f"{inside(address, strange[0])} is in the way and is no distwatch run, so it is "
            "left alone; choose another --store, or remove it yourself."
        )
    if runs and not overwrite and not resume:
        more = f" and {len(runs) - 1} more" if len(runs) > 1 else ""
        raise RunExistsError(
            f"{shown} holds runs already ({runs[0]}{more}); choose another --store ('{shown}/' "
            "for a new folder in it at each start), or pass --overwrite to delete them first, "
            "or set 'resume: true' in a --config to continue them."
        )
    for name in runs if overwrite else ():
        delete_run(inside(address, name))


def _check_place(address: Address, shown: str) -> None:
    from distwatch.store import run_name

    _check_writable(address, shown)
    if run_name(address) is not None:
        raise RunExistsError(
            f"{shown} is a run itself; give --store a folder, in which each fit becomes a run."
        )


def _check_writable(address: Address, shown: str) -> None:
    from distwatch.store import location_of

    if scheme_of(address) == "memory":
        raise ConfigError(f"{shown}: runs in memory end with the script; give a folder.")
    if not isinstance(address, Path):
        writable = location_of(address).is_writable()
    else:
        nearest = next(each for each in (address, *address.absolute().parents) if each.exists())
        writable = nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
    if not writable:
        raise NotWritableError(
            f"{shown} cannot be written; give --store a folder in which you may write."
        )
