"""The public face: what it exports, and how light it is."""

import inspect
import subprocess
import sys

import pytest

import distwatch as dw
from distwatch import errors
from distwatch.signals import KINDS
from distwatch.testing.fake import fake_run


def imported_by(code: str, *modules: str) -> list[str]:
    script = f"{code}\nimport sys\nprint(*(m for m in {modules!r} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_importing_distwatch_loads_nothing_large():
    heavy = ("tensorflow", "keras", "xarray", "zarr", "pydantic", "typer")
    assert imported_by("import distwatch", *heavy) == []


def test_reading_and_the_command_line_never_load_tensorflow():
    assert imported_by("import distwatch; distwatch.open_run", "tensorflow", "keras") == []
    assert imported_by("import distwatch; distwatch.diff", "tensorflow", "keras") == []
    assert imported_by("import distwatch.cli", "tensorflow", "keras", "xarray", "zarr") == []
    assert imported_by("import distwatch.export", "tensorflow", "keras", "pyarrow") == []
    assert imported_by("import distwatch.testing", "tensorflow", "keras", "zarr") == []
    # Watching does load it, so the question can be answered both ways.
    assert imported_by("import distwatch; distwatch.Watch", "tensorflow") == ["tensorflow"]


def test_a_summary_needs_no_xarray(tmp_path):
    path = fake_run(tmp_path / "run.zarr").path
    heavy = ("xarray", "pandas", "dask", "plotly", "pyarrow")
    opened = f"import distwatch; run = distwatch.open_run({str(path)!r}); run.summary()"
    assert imported_by(opened, *heavy) == []
    assert "xarray" in imported_by(f"{opened}; run.to_xarray()", *heavy)


def test_exported_names():
    assert {
        "activations", "gradients", "inputs", "loss", "tensors", "updates", "weights",
    } <= set(KINDS)  # fmt: skip
    assert set(dw.__all__) == {
        "Run", "Tracker", "Watch", "amplification", "at", "canary", "diff", "ema", "every",
        "first", "histogram", "list_runs", "logarithmic", "open_run", "preflight", "probe",
        "watching", *KINDS,
    }  # fmt: skip
    for name in dw.__all__:
        assert getattr(dw, name).__doc__, name
        assert name in dir(dw)
    with pytest.raises(AttributeError, match="no attribute 'watch'"):
        _ = dw.watch


@pytest.mark.parametrize("room", ["actions", "compat", "errors", "testing"])
def test_rooms_need_no_import_of_their_own(room):
    assert imported_by(f"import distwatch; distwatch.{room}", f"distwatch.{room}") == [
        f"distwatch.{room}"
    ]


def test_signatures_are_kept():
    watch = inspect.signature(dw.Watch).parameters
    defaults = {name: p.default for name, p in watch.items() if p.default is not p.empty}
    assert next(iter(watch)) == "store"
    assert defaults == {
        "store": "runs/",
        "signals": None,
        "reference": "previous",
        "schedule": None,
        "window": 256,
        "drain_every": 10.0,
        "overwrite": False,
        "resume": False,
        "strict": False,
        "on_full": "drop",
        "durability": "process",
        "max_bytes": None,
        "at_max_bytes": "thin",
        "max_overhead": None,
        "keep_batch": False,
        "phases": ("train",),
        "tensorboard": None,
        "log_to_keras": (),
        "rules": (),
    }
    tracker = inspect.signature(dw.Tracker).parameters
    assert tracker["reference"].default == "previous"
    assert tracker["output"].default == "input"


def test_the_error_tree_is_the_one_that_is_drawn():
    drawn = errors.__doc__ or ""
    kinds = [
        kind
        for kind in vars(errors).values()
        if inspect.isclass(kind) and issubclass(kind, (errors.DistwatchError, Warning))
    ]
    assert len(kinds) > 15
    for kind in kinds:
        assert kind.__name__ in drawn, kind
        assert kind.__doc__, kind


def test_the_public_names_are_all_that_dir_lists():
    named = [name for name in dir(dw) if not name.startswith("__")]
    assert set(named) == {*dw.__all__, "actions", "compat", "errors", "testing"}
    assert "__version__" in dir(dw)
