"""Scripts that know nothing of distwatch, run with and without it."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import BIN, Ended, assert_refused, start

import distwatch as dw
from distwatch.testing.fake import fake_run
from distwatch.training.scripts import launching
from distwatch.training.scripts.bootstrap.sitecustomize import VARIABLE
from distwatch.training.scripts.unobtrusive import Outcome
from distwatch.training.scripts.watched_fits import WatchedFits

SCRIPTS = Path(__file__).parent / "scripts"
_TIMES = re.compile(r"\d+m?s(?:/step)?")
# What of a line was there before it was drawn over depends on how long a step took.
_DRAWN = re.compile(r"\n[^\n]*(?:\x1b\[1m|\x08)[^\n]*")


def both(tmp_path, *command, options=(), sent="", **environment):
    """The script by Python alone and by distwatch, side by side: how both ended."""
    alone = start([sys.executable, *command], tmp_path / "alone", **environment)
    watched = start(
        [BIN / "distwatch", "run", *options, *command], tmp_path / "watched", **environment
    )
    return Ended(alone, sent), Ended(watched, sent)


def assert_same(tmp_path, alone, watched):
    """What the script said, returned and learned."""
    assert watched.own_err == alone.own_err
    assert watched.out == alone.out
    assert watched.code == alone.code
    learned = [np.load(tmp_path / name / "weights.npz") for name in ("alone", "watched")]
    assert learned[0].files == learned[1].files
    assert len(learned[0].files) > 1
    for name in learned[0].files:
        assert learned[0][name].tobytes() == learned[1][name].tobytes(), name


def runs_in(folder):
    return {path.name: dw.open_run(path) for path in sorted(folder.rglob("*.zarr"))}


@pytest.mark.slow
def test_a_plain_fit(tmp_path):
    alone, watched = both(tmp_path, SCRIPTS / "plain_fit.py", options=["--store", "my runs"])
    for each in (alone, watched):
        each.out = _TIMES.sub("-", _DRAWN.sub("", each.out))
    assert_same(tmp_path, alone, watched)
    assert "Total params" in watched.out
    assert alone.code == 0
    runs = runs_in(tmp_path / "watched" / "my runs")
    # 72 rows in batches of 32, twice; then all 90 rows.
    assert {name: len(run) for name, run in runs.items()} == {
        "fit-000.zarr": 6,
        "fit-001.zarr": 3,
    }
    assert all(run.ended == "closed" for run in runs.values())
    assert watched.err == (
        alone.err
        + "distwatch: 2 runs were written: fit-000.zarr and fit-001.zarr in my runs\n"
        + "distwatch: look at it by: distwatch report 'my runs/fit-000.zarr'\n"
    )


@pytest.mark.slow
def test_a_subclassed_model(tmp_path):
    (tmp_path / "all.yaml").write_text("phases: [train, test, predict]\nsignals: [output]\n")
    options = ["--config", tmp_path / "all.yaml", "--quiet"]
    alone, watched = both(tmp_path, SCRIPTS / "subclassed.py", options=options)
    assert_same(tmp_path, alone, watched)
    assert watched.err == alone.err
    runs = runs_in(tmp_path / "watched" / launching.DEFAULT_STORE)
    assert {name: (run.phases, len(run)) for name, run in runs.items()} == {
        "evaluate-000.zarr": (["test"], 2),
        "fit-000.zarr": (["train"], 8),
        "predict-000.zarr": (["predict"], 1),
    }


@pytest.mark.slow
def test_a_step_of_its_own_on_two_replicas(tmp_path):
    alone, watched = both(tmp_path, SCRIPTS / "custom_step.py")
    assert_same(tmp_path, alone, watched)
    (run,) = runs_in(tmp_path / "watched" / launching.DEFAULT_STORE).values()
    assert (len(run), run.replicas) == (10, [0, 1])
    # 6 numbers a row: 36 rows twice, but those of the first batch, which has none before it,
    # and half of those that follow the short last batch of an epoch.
    dense = run["activation/sequential/dense"]
    assert dense.per_replica("count").sum() == (2 * 36 - 8 - 4) * 6


@pytest.mark.slow
def test_arguments_main_and_processes(tmp_path):
    """As a module, by what a worktree of one's own would look like."""
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").touch()
    script = (SCRIPTS / "with_arguments.py").read_text()
    (tmp_path / "package" / "train.py").write_text(script)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    (tmp_path / "sitecustomize.py").write_text("import builtins\nbuiltins.own = 1\n")
    command = ["-m", "package.train", "--store", "x", "--lr", "0.01", "--", "-q", "--help"]
    alone, watched = both(tmp_path, *command, sent="said\n", PYTHONPATH=path)
    for each, name in ((alone, "alone"), (watched, "watched")):
        # The one is started by a shell, the other by distwatch; both in folders of their own.
        each.out = each.out.replace(str(tmp_path / name), "HERE")
    assert_same(tmp_path, alone, watched)
    assert alone.code == 3
    assert "store='x'" in watched.out
    assert "said" in watched.out
    assert "DISTWATCH" not in watched.out
    assert list(runs_in(tmp_path / "watched" / launching.DEFAULT_STORE)) == ["fit-000.zarr"]


@pytest.mark.slow
@pytest.mark.usefixtures("interruptible")
def test_a_script_that_raises(tmp_path):
    alone, watched = both(tmp_path, SCRIPTS / "raises.py")
    assert_same(tmp_path, alone, watched)
    assert alone.code == -signal.SIGINT
    assert alone.err.count("Traceback") == 6
    runs = runs_in(tmp_path / "watched" / launching.DEFAULT_STORE)
    # The second batch of each was trained on before its callback raised.
    assert {name: len(run) for name, run in runs.items()} == {
        "fit-001.zarr": 2,
        "fit-003.zarr": 2,
        "fit-004.zarr": 2,
    }


@pytest.mark.slow
def test_a_fit_that_cannot_be_watched_goes_on(tmp_path):
    (tmp_path / "known.yaml").write_text("signals: [known]\nstore: runs\n")
    options = ["--config", tmp_path / "known.yaml"]
    alone, watched = both(tmp_path, SCRIPTS / "unwatchable.py", "runs", options=options)
    assert_same(tmp_path, alone, watched)
    assert alone.code == 0
    runs = tmp_path / "watched" / "runs"
    assert (runs / "fit-002.zarr" / "letter.txt").read_text() == "keep me"
    (runs / "fit-002.zarr").rename(tmp_path / "taken")
    lengths = {name: len(run) for name, run in runs_in(runs).items()}
    assert lengths == {"fit-000.zarr": 3, "fit-003.zarr": 3, "fit-004.zarr": 2}
    said = [line for line in watched.err.splitlines() if line.startswith("distwatch: ")]
    reasons = {
        "fit-001": "is not watched, training goes on: UnknownSignalError: ",
        "fit-002": "is not watched, training goes on: RunExistsError: ",
        "fit-005": "is not watched, training goes on: UnsupportedTrainingError: ",
        "fit-006": "is not watched, training goes on: UnwatchableError: ",
    }
    for line, (name, reason) in zip(said[:4], reasons.items(), strict=True):
        assert line.startswith(f"distwatch: {name} {reason}")
    assert len(said) == 7
    assert said[-1].startswith("distwatch: 4 of 7 fits were not watched: fit-001: Unknown")


def quick(tmp_path, text, *arguments, options=(), **environment):
    """A script that does not reach TensorFlow, by Python alone and by distwatch."""
    (tmp_path / "script.py").write_text(text)
    command = [tmp_path / "script.py", *arguments]
    return both(tmp_path, *command, options=options, **environment)


def fake_keras(tmp_path, text):
    """A Keras that says nothing but this, on the path of the script."""
    (tmp_path / "fake" / "keras").mkdir(parents=True)
    (tmp_path / "fake" / "keras" / "__init__.py").write_text(text)
    paths = [str(tmp_path / "fake"), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(filter(None, paths))


@pytest.mark.parametrize("kind", ["ImportError('no backend')", "OSError('no library')"])
def test_a_keras_that_cannot_be_imported(tmp_path, kind):
    path = fake_keras(tmp_path, f"def f():\n    raise {kind}\nf()\n")
    alone, watched = quick(tmp_path, "import keras\n", PYTHONPATH=path)
    assert (watched.code, watched.own_err) == (alone.code, alone.err)
    assert "importlib" not in watched.err
    assert watched.code == 1
    assert watched.err.endswith("Keras was not imported, so nothing was watched.\n")


@pytest.mark.parametrize(
    ("version", "backend", "says"),
    [("3.14.0", "jax", "Keras runs on jax"), ("2.15.0", "tensorflow", "this is Keras 2.15.0")],
)
def test_a_keras_that_is_not_watched(tmp_path, version, backend, says):
    path = fake_keras(
        tmp_path,
        f"__version__ = {version!r}\nclass backend:\n    backend = lambda: {backend!r}\n",
    )
    text = "import sys, keras\nprint('tensorflow' in sys.modules, len(sys.meta_path))\n"
    alone, watched = quick(tmp_path, text, PYTHONPATH=path)
    assert (watched.code, watched.out, watched.own_err) == (0, alone.out, "")
    assert f"distwatch: nothing was watched: {says}" in watched.err


ENDS = """
import atexit, os, sys, signal
atexit.register(print, "at exit", flush=True)
print(sys.argv[1:], sys.flags, sys.warnoptions, sys._xoptions, __name__, __file__, flush=True)
how = sys.argv[1]
if how == "exit": sys.exit("in words")
if how == "_exit": os._exit(7)
if how == "abort": signal.raise_signal(signal.SIGTERM)
if how == "fork" and not os.fork(): sys.exit(0)
if how == "fork": os.wait()
if how == "hook": sys.excepthook = lambda *a: print("my hook", a[1]); 1 / 0
"""


@pytest.mark.fast_cases("exit", "fork")
@pytest.mark.parametrize("how", ["exit", "_exit", "abort", "fork", "hook"])
def test_ends_of_all_kinds(tmp_path, how):
    alone, watched = quick(tmp_path, ENDS, how, PYTHONWARNINGS="error::FutureWarning")
    assert (watched.code, watched.out) == (alone.code, alone.out)
    assert watched.own_err == alone.err
    said = watched.err.count("distwatch: ")
    assert said == (0 if how in ("_exit", "abort") else 1)


@pytest.mark.slow
def test_options_of_python_itself_are_passed_on(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ENDS)
    options = ["-O", "-W", "ignore", "-X", "faulthandler", "-u"]
    alone = start([sys.executable, *options, script, "no"], tmp_path / "a")
    by_hand = "from distwatch.cli import main; main()"
    command = [sys.executable, *options, "-c", by_hand, "run", "--quiet", script, "no"]
    alone, watched = Ended(alone), Ended(start(command, tmp_path / "b"))
    assert (watched.code, watched.out, watched.err) == (0, alone.out, alone.err)
    assert "optimize=1" in watched.out


def test_a_folder_and_a_script_without_an_ending(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "__main__.py").write_text("import sys; print(sys.path[0], sys.argv)")
    (tmp_path / "train").write_text("import sys; print(sys.path[0], sys.argv)")
    for name in ("folder", "train"):
        alone, watched = both(tmp_path, tmp_path / name, "--quiet", "", options=["--quiet"])
        assert (watched.code, watched.out, watched.err) == (0, alone.out, alone.err)


LONG = """
import keras, numpy as np, time
class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 5:
            print("now", flush=True)
            time.sleep(60)
m = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
m.compile("sgd", "mse")
m.fit(np.ones((20, 2)), np.ones((20, 1)), batch_size=2, callbacks=[Slow()], verbose=0)
"""


@pytest.mark.slow
def test_a_script_that_is_terminated(tmp_path):
    """The process is the script's own, so a signal needs no passing on; its run is closed."""
    (tmp_path / "script.py").write_text(LONG)
    process = start([BIN / "distwatch", "run", "../script.py"], tmp_path / "a")
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGTERM)
    ended = Ended(process)
    assert (ended.code, ended.own_err) == (-signal.SIGTERM, "")
    (run,) = runs_in(tmp_path / "a" / launching.DEFAULT_STORE).values()
    assert (len(run), run.ended) == (6, "closed")


@pytest.mark.slow
def test_strict_ends_the_script(tmp_path):
    (tmp_path / "strict.yaml").write_text("signals: [nothing]\nstrict: true\n")
    (tmp_path / "script.py").write_text(LONG)
    options = ["--config", "../strict.yaml"]
    ended = Ended(start([BIN / "distwatch", "run", *options, "../script.py"], tmp_path / "a"))
    assert ended.code == 1
    assert "UnknownSignalError: " in ended.err
    assert "distwatch: no fit came to its first step, so nothing was written.\n" in ended.err
    assert runs_in(tmp_path / "a" / launching.DEFAULT_STORE) == {}


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("raise SystemExit('never started')")
    return "train.py"


def test_what_is_refused_before_the_script_starts(call, script, tmp_path):
    for arguments, parts in [
        (["nowhere.py"], ["nowhere.py", "there is no such script", "-m"]),
        (["-"], ["stdin", "save it in a file"]),
        (["."], ["a folder without a __main__.py"]),
        (["-m", "no_such_package.train", "x"], ["no module 'no_such_package'"]),
        (["--config", "none.yaml", script], ["none.yaml' cannot be read"]),
        (["--store", "memory://x", script], ["end with the script"]),
        (["--store", "nosuch://x", script], ["nosuch://x"]),
        (["--store", "train.py", script], ["cannot be written", "--store"]),
    ]:
        assert_refused(call("run", *arguments), *parts)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.py"]


def test_wrong_configurations_are_refused(call, script, tmp_path):
    for text, parts in [
        ("signal: [x]", ["unknown key 'signal'", "'signals'"]),
        ("window: 0", ["window=0"]),
        ("resume: true\noverwrite: true", ["deleted or continued"]),
        ("reference: 2026-01-01", ["wrong.yaml"]),
    ]:
        (tmp_path / "wrong.yaml").write_text(text)
        assert_refused(call("run", "--config", "wrong.yaml", script), *parts)


def test_bad_usage_is_2(call, script):
    assert call("run")[0] == 2
    code, _, err = call("run", "--stoer", "x", script)
    assert code == 2
    assert "--store" in err


def test_help_tells_examples_and_exit_codes(call):
    code, out, _ = call("run", "--help")
    assert code == 0
    for part in ("distwatch run -m package.train --lr 0.1", "Exit codes: the script's own"):
        assert part in out


def settings_of(launch):
    return json.loads(launch.environment[VARIABLE])


def test_runs_that_are_there_are_not_mixed_with(script, tmp_path):
    fake_run(tmp_path / "runs" / "fit-000.zarr")
    fake_run(tmp_path / "runs" / "fit-001.zarr")
    (tmp_path / "runs" / "letter.txt").write_text("keep me")
    fake_run(tmp_path / "runs" / "mine.zarr")
    asked = launching.Script(script)
    with pytest.raises(dw.errors.RunExistsError, match=r"fit-000.zarr and 1 more.*--overwrite"):
        launching.prepare(asked, store="runs")
    with pytest.raises(dw.errors.RunExistsError, match="is a run itself"):
        launching.prepare(asked, store="runs/mine.zarr")
    Path("resume.yaml").write_text("store: runs\nresume: true\n")
    resumed = settings_of(launching.prepare(asked, config=Path("resume.yaml")))
    assert resumed["arguments"]["resume"] is True
    assert resumed["store"] == str(tmp_path / "runs")
    with pytest.raises(dw.errors.ConfigError, match="deleted or continued"):
        launching.prepare(asked, config=Path("resume.yaml"), overwrite=True)
    # A further worker of one training finds what the first one began.
    cluster = {"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 1}}
    further = {**os.environ, "TF_CONFIG": json.dumps(cluster)}
    launching.prepare(asked, store="runs", environment=further)
    assert len(list((tmp_path / "runs").iterdir())) == 4
    cluster["task"]["index"] = 0
    first = {**os.environ, "TF_CONFIG": json.dumps(cluster)}
    launching.prepare(asked, store="runs", overwrite=True, environment=first)
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "letter.txt",
        "mine.zarr",
    ]
    (tmp_path / "runs" / "fit-000.zarr").mkdir()
    with pytest.raises(dw.errors.RunExistsError, match="left alone"):
        launching.prepare(asked, store="runs", overwrite=True)


def test_what_is_started(script, tmp_path):
    asked = launching.Script(script, ("--store", "", "-m"))
    launch = launching.prepare(asked, environment={"PYTHONPATH": "one"})
    assert launch.command[0] == sys.executable
    assert launch.command[-4:] == [script, "--store", "", "-m"]
    assert launch.environment["PYTHONPATH"].endswith(f"bootstrap{os.pathsep}one")
    assert settings_of(launch)["pythonpath"] == "one"
    (tmp_path / "-x.py").touch()
    assert launching.prepare(launching.Script("-x.py")).command[-1] == "./-x.py"
    assert launching.prepare(launching.Script("json.tool", (), True)).command[-2:] == [
        "-m",
        "json.tool",
    ]


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        (["bin/distwatch", "run", "-u"], []),
        (
            ["-uOO", "-Wignore", "-X", "dev", "bin/distwatch", "-W"],
            ["-uOO", "-Wignore", "-X", "dev"],
        ),
        (["-uc", "code", "-O"], ["-u"]),
        (["-BW", "error", "-m", "distwatch", "-u"], ["-BW", "error"]),
        (["--check-hash-based-pycs", "never", "-mcli"], ["--check-hash-based-pycs", "never"]),
    ],
)
def test_which_options_are_those_of_python(given, passed):
    assert launching._python_options(["python", *given]) == passed


def test_a_python_without_site_is_refused(script):
    by_hand = "import sys; sys.path[:0] = {!r}; from distwatch.cli import main; main()"
    for option in ("-I", "-E"):
        command = [sys.executable, option, "-c", by_hand.format(sys.path), "run", script]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode == 1
        assert f"Python was started with {option}" in ended.stderr


def test_an_exec_that_fails_is_refused(script, monkeypatch):
    launch = launching.prepare(launching.Script(script))
    monkeypatch.setattr(os, "name", "posix")
    long = launching.Launch([*launch.command, "x" * 10_000_000], launch.environment)
    with pytest.raises(dw.errors.SetupError, match="cannot be started"):
        long.go()


def test_a_folder_that_holds_one_run_stands_for_it(call, tmp_path):
    fake_run(tmp_path / "runs" / "fit-000.zarr", steps=5)
    for name in ("info", "verify"):
        assert call(name, tmp_path / "runs") == call(name, tmp_path / "runs" / "fit-000.zarr")
    assert call("tail", tmp_path / "runs", "--once", "--json")[0] == 0


@pytest.mark.parametrize("board", ["logs", {"folder": "logs", "every": 3}])
def test_each_fit_has_event_files_of_its_own(tmp_path, monkeypatch, board):
    monkeypatch.chdir(tmp_path)
    arguments = {"tensorboard": board}
    fits = WatchedFits({"arguments": arguments, "store": "runs", "shown": "runs"})
    watches = [fits._make_watch("fit", refused=False) for _ in range(2)]
    options = [watch.config.tensorboard for watch in watches]
    names = [each.folder.relative_to(tmp_path) for each in options]
    assert names == [Path("logs/fit-000"), Path("logs/fit-001")]
    assert {each.every for each in options} == {3 if isinstance(board, dict) else 1}


def test_each_start_has_a_folder_of_its_own(script, tmp_path):
    for store, title in [(None, "train"), ("out/", "train")]:
        settings = settings_of(launching.prepare(launching.Script(script), store=store))
        assert settings["title"] == title
        assert settings["shown"] == str(store or "runs/").rstrip("/")
    settings = settings_of(launching.prepare(launching.Script("json.tool", (), True)))
    assert settings["title"] == "tool"
    # What is deleted or continued has to be in one place.
    (tmp_path / "resume.yaml").write_text("resume: true")
    for how in ({"overwrite": True}, {"config": tmp_path / "resume.yaml"}):
        for store, shown in [(None, "distwatch-runs"), ("out/", "out")]:
            settings = settings_of(
                launching.prepare(launching.Script(script), store=store, **how)
            )
            assert (settings["title"], settings["shown"]) == (None, shown)
    fake_run(tmp_path / "runs", steps=1)
    with pytest.raises(dw.errors.RunExistsError, match="is a run itself"):
        launching.prepare(launching.Script(script))


def test_fits_of_one_start_are_beside_each_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {
        "arguments": {"tensorboard": "logs"},
        "store": str(tmp_path / "runs"),
        "shown": "runs",
        "title": "train",
    }
    keys = []
    for _ in range(2):
        fits = WatchedFits(settings)
        stores = [fits._make_watch("fit", refused=False).config.store for _ in range(2)]
        assert {store.folder for store in stores} == {tmp_path / "runs"}
        keys.append([store.key for store in stores])
    starts = [Path(key).parent.name for pair in keys for key in pair]
    assert (starts[0], starts[2]) == (starts[1], starts[3])
    assert starts[0] != starts[2]
    assert all("-train" in start for start in starts)
    assert [Path(key).name for key in keys[1]] == ["fit-000.zarr", "fit-001.zarr"]
    # A further worker is given the place when the path is claimed.
    further = WatchedFits({**settings, "is_further_worker": True})
    assert further._make_watch("fit", refused=False).config.store.key is None
    assert len(list((tmp_path / "runs").iterdir())) == 2


@pytest.mark.parametrize(
    "numbers, said",
    [
        ([0], "1 run was written: fit-000.zarr in runs"),
        ([0, 2], "2 runs were written: fit-000.zarr and fit-002.zarr in runs"),
        (range(1, 9), "8 runs were written: fit-001.zarr to fit-008.zarr in runs"),
        (
            [0, 1, 2, 3, 4, 6, 7],
            "7 runs were written: fit-000.zarr, fit-001.zarr, fit-002.zarr, fit-003.zarr, "
            "fit-004.zarr and 2 more in runs",
        ),
    ],
)
def test_runs_are_listed_as_they_are(numbers, said):
    fits = WatchedFits({"arguments": {}, "store": "runs", "shown": "runs"})
    fits._outcomes = [Outcome(f"fit-{n:03d}", committed=int(n in numbers)) for n in range(9)]
    assert next(fits.closing_lines()) == said
