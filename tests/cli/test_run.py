"""Scripts that know nothing of distwatch, run with and without it."""

import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import BIN, Ended, start

import distwatch as dw
from distwatch.training.scripts import launching

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
        + "distwatch: nothing unusual.\n"
        + "distwatch: look at it by: distwatch report 'my runs/fit-000.zarr'\n"
    )


DIVERGES = """
import keras
import numpy as np

keras.utils.set_random_seed(1)
x = np.random.default_rng(0).normal(1.0, 2.0, (400, 8)).astype("float32")
hidden = keras.layers.Dense(16, "relu")
model = keras.Sequential([keras.Input((8,)), hidden, keras.layers.Dense(2)])
model.compile(keras.optimizers.SGD({rate}), "mse")
raises = [keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: 1 / (2 - epoch))]
model.fit(x, x[:, :2], batch_size=16, epochs=4, verbose=0, callbacks=raises)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "rate, says", [(100.0, "fit-000: NaN or Inf first appeared at step"), (0.01, "nothing")]
)
def test_what_stands_out_is_said_when_a_fit_raises(tmp_path, rate, says):
    (tmp_path / "train.py").write_text(DIVERGES.format(rate=rate))
    ended = Ended(start([BIN / "distwatch", "run", "train.py"], tmp_path))
    written, said, look = [x for x in ended.err.splitlines() if x.startswith("distwatch: ")]
    assert "1 run was written" in written
    assert said.startswith(f"distwatch: {says}")
    assert look.endswith("fit-000.zarr")
    assert "ZeroDivisionError" in ended.err


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


NEVER_WATCHED = """
import sys, keras, numpy as np
model = keras.Sequential([keras.layers.Dense(1)])
model.compile("sgd", "mse")
data = np.ones((8, 2), "float32"), np.ones((8, 1), "float32")
if sys.argv[1] == "refused":
    model.fit(*data, verbose=0)
else:
    model.fit(data[0], np.ones((3, 1), "float32"), verbose=0)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "options"),
    [("refused", []), ("raises", ["--quiet"]), ("refused", ["--store", "out/deep"])],
)
def test_a_script_without_a_watched_step_leaves_no_folder(tmp_path, how, options):
    (tmp_path / "known.yaml").write_text("signals: [nothing_is_called_so]\n")
    (tmp_path / "script.py").write_text(NEVER_WATCHED)
    given = ["--config", tmp_path / "known.yaml"] if how == "refused" else []
    command = [tmp_path / "script.py", how]
    alone, watched = both(tmp_path, *command, options=[*given, *options])
    assert watched.code == alone.code == (how == "raises")
    assert list((tmp_path / "watched").iterdir()) == []


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
