"""What holds for every command, also for those that are still to come."""

import json
import os
import subprocess

import pytest
import typer
from commands import BIN, assert_refused

from distwatch.cli import COMMANDS, app
from distwatch.store import StoredRun, claim, now
from distwatch.store.schema import root_attributes
from distwatch.testing.fake import fake_run

_ROOT = typer.main.get_command(app)


def leaves(command, *names):
    """Each command that does something: its names, and what typer knows of it."""
    inner = getattr(command, "commands", None)
    if inner is None:
        return [(names, command)]
    return [leaf for name, each in inner.items() for leaf in leaves(each, *names, name)]


LEAVES = dict(leaves(_ROOT))
NAMES = [*LEAVES, *((name,) for name in COMMANDS if (name,) not in LEAVES)]

#: A quick, valid call of each that takes more than a run; RUN stands for a run.
WELL = {
    ("tail",): ["RUN", "--once"],
    # What is made up has replicas that differ.
    ("check",): ["RUN", "--fail-on", "never"],
    ("rules",): [],
    ("ls",): ["RUN"],
    ("diff",): ["RUN", "RUN"],
    ("set",): ["RUN", "dense*", "--off"],
    ("estimate",): ["--steps", "1000"],
    ("export",): ["RUN", "--csv", "run.csv"],
    ("config", "init"): [],
    ("config", "check"): ["right.yaml"],
    ("config", "schema"): [],
    ("doctor",): ["--quick"],
}
#: These train; their own tests look at how they print.
SLOW = {("demo",), ("run",), ("overhead",)}


def takes_a_run(command):
    return any(each.name == "run" and "--run" not in each.opts for each in command.params)


WELL = {names: ["RUN"] for names, command in LEAVES.items() if takes_a_run(command)} | WELL


def options_of(command):
    return {option for each in command.params for option in each.opts}


def ids(names):
    return " ".join(names)


@pytest.fixture
def well(call, tmp_path, monkeypatch):
    """Call a command as it is meant to be, with further options."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("distwatch.cli.doctor.targets.SECONDS", 0.0)
    fake_run(tmp_path / "run.zarr")
    # One that is being written, as far as can be seen.
    claim("going_on.zarr", root_attributes(StoredRun("run.zarr").info, now(), "a"))
    (tmp_path / "right.yaml").write_text("store: run.zarr\n")

    def run(names, *further):
        path = "going_on.zarr" if names == ("set",) else "run.zarr"
        given = [path if each == "RUN" else each for each in WELL[names]]
        return call(*names, *given, *further)

    return run


def test_every_command_is_looked_at():
    assert {names[0] for names in LEAVES} == set(COMMANDS)
    missing = set(LEAVES) - set(WELL) - SLOW
    assert missing == set(), "say in WELL how it is called"


@pytest.mark.parametrize("names", NAMES, ids=ids)
def test_help_has_examples_and_exit_codes(call, names):
    code, out, err = call(*names, "--help")
    assert (code, err) == (0, "")
    assert "Examples:" in out
    assert f"distwatch {' '.join(names)}" in out.partition("Examples:")[2]
    assert "Exit codes:" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("names", NAMES, ids=ids)
def test_an_unknown_option_is_bad_usage(call, names):
    code, out, err = call(*names, "--no-such-option")
    assert (code, out) == (2, "")
    assert "--no-such-option" in err


RUNS = [names for names, command in LEAVES.items() if takes_a_run(command)]


@pytest.mark.parametrize("names", RUNS, ids=ids)
def test_a_run_that_is_not_there_is_refused(call, names, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ["nothing.zarr" if each == "RUN" else each for each in WELL[names]]
    assert_refused(call(*names, *given), "nothing.zarr")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", RUNS, ids=ids)
def test_a_run_has_to_be_named(call, names):
    code, out, err = call(*names)
    assert (code, out) == (2, "")
    assert "missing argument" in err.lower()


@pytest.mark.parametrize("names", [n for n in LEAVES if n not in SLOW], ids=ids)
def test_where_there_is_no_terminal_it_is_quiet(well, names):
    code, out, err = well(names)
    assert code == 0
    assert err == ""
    assert "\x1b" not in out
    assert "\r" not in out


JSON = [
    names
    for names, command in LEAVES.items()
    if "--json" in options_of(command) and names not in SLOW
]


@pytest.mark.parametrize("names", JSON, ids=ids)
def test_json_is_one_document(well, names):
    code, out, err = well(names, "--json")
    assert (code, err) == (0, "")
    assert isinstance(json.loads(out), dict)


def test_what_programs_read_they_can():
    assert {("info",), ("tail",), ("verify",), ("estimate",), ("doctor",)} <= set(JSON)
    assert {("config", "check"), ("diff",)} <= set(JSON)
    assert {("info",), ("tail",), ("verify",), ("diff",)} <= set(RUNS)


def completed(shell, line):
    """What a shell is told that a line may go on with: the protocol of its completion."""
    words = line.split(" ")
    asking = {
        "_DISTWATCH_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": line,
    }
    told = subprocess.run(
        [BIN / "distwatch"],
        env={**os.environ, **asking},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert told.stderr == ""
    return told.stdout


@pytest.mark.fast_cases("distwatch config init --use pro-*")
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("distwatch ", COMMANDS),
        ("distwatch d", ["demo", "diff", "doctor"]),
        ("distwatch config ", ["init", "check", "schema"]),
        ("distwatch config init --use pro", ["production"]),
        ("distwatch info --phase t", ["train", "test", "train_on_batch"]),
    ],
)
def test_bash_completes(line, words):
    assert completed("bash", line).split() == list(words)


@pytest.mark.slow
def test_zsh_completes_and_explains():
    told = completed("zsh", "distwatch d")
    assert told.startswith("_arguments")
    assert '"demo":' in told
    assert '"doctor":"Check what this machine can do' in told
    assert '"production"' in completed("zsh", "distwatch config init --use pro")


@pytest.mark.fast_cases("zsh")
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_can_be_installed(shell):
    script = subprocess.run(
        [BIN / "distwatch"],
        env={**os.environ, "_DISTWATCH_COMPLETE": f"source_{shell}"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert f"_DISTWATCH_COMPLETE=complete_{shell}" in script
    assert "--install-completion" in options_of(_ROOT)
