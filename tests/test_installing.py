"""What an installation does without TensorFlow, and what the wheel brings."""

import json
import os
import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import pytest

from distwatch.testing.fake import fake_run

ROOT = Path(__file__).parents[1]

#: An import of either fails as it does where they are not installed.
BLOCKED = "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None\n"

#: Everything that needs no TensorFlow, as arguments of the command line.
READING = (
    ("info", "run.zarr", "--json"),
    ("verify", "run.zarr"),
    ("tail", "run.zarr", "--once"),
    ("estimate", "--steps", "1000"),
    ("config", "init", "watch.yaml"),
    ("config", "check", "watch.yaml"),
    ("export", "run.zarr", "--csv", "run.csv"),
    ("doctor", "--store", "memory://doctor/run.zarr"),
)
#: The same with the extras report and parquet.
WITH_EXTRAS = (
    ("report", "run.zarr", "-o", "report.html"),
    ("export", "run.zarr", "--parquet", "run.parquet"),
)
#: Everything that trains, as a program reaches it.
TRAINING = (
    "distwatch.Watch",
    "distwatch.Tracker",
    "distwatch.watching",
    "distwatch.preflight",
    "distwatch.compat",
    "distwatch.testing.mirrored",
    "distwatch.testing.virtual_devices",
)

READ_A_RUN = """
    import sys
    import distwatch as dw

    run = dw.open_run("run.zarr")
    assert run.to_xarray()["mean"].sizes == {"step": 12, "replica": 2, "signal": 2}
    assert run.to_xarray(merged=True)["std"].notnull().all()
    assert "12 steps" in run.summary()
    assert run.verify() == [] and isinstance(run.findings(), list)
    assert not [name for name in ("tensorflow", "keras") if sys.modules.get(name)]
"""

ASK_FOR_TRAINING = f"""
    import distwatch
    from distwatch.errors import BackendError

    for name in {TRAINING!r}:
        try:
            eval(name)
        except BackendError as error:
            print(name, error, sep="\\t")
"""


def python(code, cwd, executable=sys.executable):
    """Run a program in a process of its own, without Python's own search for this tree."""
    return run([executable, "-P", "-c", textwrap.dedent(code)], cwd)


def run(command, cwd, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**kept, "PIP_DISABLE_PIP_VERSION_CHECK": "1", **environment},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


def assert_right(done):
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def assert_says_what_to_install(done, *parts):
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    for part in ("not installed", "pip install", *parts):
        assert part in done.stderr


def assert_training_says_what_to_install(done):
    assert_right(done)
    said = dict(line.split("\t") for line in done.stdout.splitlines())
    assert set(said) == set(TRAINING)
    for text in said.values():
        assert 'not installed: pip install "distwatch[tensorflow]".' in text


@pytest.fixture
def folder(tmp_path):
    """A folder with a run, and with a script that would train."""
    fake_run(tmp_path / "run.zarr", steps=12)
    (tmp_path / "train.py").write_text("import keras\n")
    return tmp_path


def test_a_run_is_read_where_tensorflow_cannot_be_imported(folder):
    assert_right(python(BLOCKED + textwrap.dedent(READ_A_RUN), folder))


def test_the_commands_that_read_work_where_tensorflow_cannot_be_imported(folder):
    # One process for all of them; doctor looks at what is installed, and so is left out.
    commands = [each for each in READING + WITH_EXTRAS if each[0] != "doctor"]
    code = f"""
    from distwatch import cli
    for arguments in {commands!r}:
        sys.argv = ["distwatch", *arguments]
        try:
            cli.main()
        except SystemExit as end:
            assert not end.code, (arguments, end.code)
    """
    assert_right(python(BLOCKED + textwrap.dedent(code), folder))
    for name in ("report.html", "run.parquet", "run.csv", "watch.yaml"):
        assert (folder / name).stat().st_size > 100


def test_what_trains_says_what_to_install(folder):
    done = python(BLOCKED + textwrap.dedent(ASK_FOR_TRAINING), folder)
    assert_training_says_what_to_install(done)


@pytest.mark.parametrize(
    "arguments", [("demo",), ("run", "train.py")], ids=lambda each: each[0]
)
def test_commands_that_train_say_what_to_install(folder, arguments):
    code = f"from distwatch import cli; sys.argv = ['distwatch', *{arguments!r}]; cli.main()"
    assert_says_what_to_install(python(BLOCKED + code, folder), '"distwatch[tensorflow]"')
    assert not (folder / "distwatch-demo.zarr").exists()


def test_where_only_keras_is_missing_no_second_tensorflow_is_named(folder):
    code = """
    import sys
    sys.modules["keras"] = None
    import distwatch
    try:
        distwatch.Watch
    except distwatch.errors.BackendError as error:
        print(error)
    """
    done = python(code, folder)
    assert_right(done)
    assert "needs keras, which is not installed: pip install keras." in done.stdout


def test_another_missing_module_is_not_blamed_on_tensorflow():
    from distwatch.errors import training_imports

    with pytest.raises(ModuleNotFoundError, match="h5py"), training_imports("distwatch.Watch"):
        raise ModuleNotFoundError("No module named 'h5py'", name="h5py")


@pytest.mark.slow
def test_a_tensorflow_of_another_name_is_recorded_by_its_version(folder):
    # As where only tensorflow-cpu or a cluster's own build is installed.
    code = """
    from importlib import metadata

    real = metadata.distribution

    def distribution(name):
        if name in ("tensorflow", "keras"):
            raise metadata.PackageNotFoundError(name)
        return real(name)

    metadata.distribution = distribution
    import keras, numpy as np, tensorflow as tf
    import distwatch as dw

    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    x = np.arange(12.0).reshape(4, 3)
    model.fit(x, x[:, :2], batch_size=2, verbose=0, callbacks=[dw.Watch("trained.zarr")])
    versions = dw.open_run("trained.zarr").info.versions
    assert versions["tensorflow"] == tf.__version__
    assert versions["keras"] == keras.__version__
    """
    assert_right(python(code, folder))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with the sdist, and with the wheel that was built from that sdist."""
    out = tmp_path_factory.mktemp("dist")
    done = run([sys.executable, "-m", "build", "--outdir", out, ROOT], ROOT)
    assert_right(done)
    return out


def installed(folder, what):
    """The folder of programs of a new environment in which ``what`` is installed."""
    venv.create(folder, with_pip=True, symlinks=True)
    programs = folder / "bin"
    assert_right(run([programs / "python", "-m", "pip", "install", "--quiet", what], folder))
    listed = run([programs / "python", "-m", "pip", "list", "--format", "json"], folder)
    names = {each["name"].lower() for each in json.loads(listed.stdout)}
    assert not [name for name in names if name.startswith(("tensorflow", "keras", "tf-"))]
    return programs


@pytest.mark.slow
def test_the_bare_wheel_reads_and_says_what_else_to_install(built, folder, tmp_path):
    (wheel,) = built.glob("*.whl")
    programs = installed(tmp_path / "venv", wheel)
    for arguments in READING:
        assert_right(run([programs / "distwatch", *arguments], folder))
    assert_right(python(READ_A_RUN, folder, programs / "python"))
    asked = python(ASK_FOR_TRAINING, folder, programs / "python")
    assert_training_says_what_to_install(asked)
    report, parquet = (run([programs / "distwatch", *each], folder) for each in WITH_EXTRAS)
    assert_says_what_to_install(report, "distwatch[report]")
    assert_says_what_to_install(parquet, "distwatch[parquet]")
    for arguments in (("demo",), ("run", "train.py")):
        done = run([programs / "distwatch", *arguments], folder)
        # [demo] brings [tensorflow].
        assert_says_what_to_install(
            done, {"demo": "[demo]", "run": "[tensorflow]"}[arguments[0]]
        )


@pytest.mark.slow
def test_the_wheel_with_extras_reports_and_exports(built, folder, tmp_path):
    (wheel,) = built.glob("*.whl")
    programs = installed(tmp_path / "venv", f"{wheel}[report,parquet]")
    for arguments in (*READING, *WITH_EXTRAS):
        assert_right(run([programs / "distwatch", *arguments], folder))
    assert (folder / "report.html").read_text().startswith("<!DOCTYPE html>")
    code = "import pyarrow.parquet as p; print(p.read_table('run.parquet').num_rows)"
    # 12 steps, 2 signals, 2 replicas and what is merged over them.
    assert int(python(code, folder, programs / "python").stdout) == 72
