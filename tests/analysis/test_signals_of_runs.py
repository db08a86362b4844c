"""How runs and signals are used: short names, `in`, iteration, tables, figures, texts."""

import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from chosen_runs import HOSTILE, made_run, ordinary
from long_runs import LongTable, chunk_files, long_run

import distwatch as dw
from distwatch.analysis import notebook
from distwatch.errors import ConfigError, UnknownSignalError
from distwatch.records import RunInfo, Table
from distwatch.signals import Signal
from distwatch.testing.fake import fake_block, fake_run, write_fake

NAMES = [
    "activation/encoder/hidden",
    "activation/output",
    "loss",
    "input",
    "data/input",
    "gradient/hidden/kernel",
    "weight/hidden/kernel",
    "weight/hidden/bias",
]


@pytest.fixture
def fake(tmp_path):
    return fake_run(tmp_path / "run.zarr", steps=25, replicas=3, signals=NAMES)


@pytest.fixture
def run(fake):
    return dw.open_run(fake.path)


@pytest.mark.parametrize(
    "short, name",
    [
        ("hidden", "activation/encoder/hidden"),
        ("encoder/hidden", "activation/encoder/hidden"),
        ("output", "activation/output"),
        ("loss", "loss"),
        # A whole name means itself, though another one ends like that.
        ("input", "input"),
        ("data/input", "data/input"),
        ("bias", "weight/hidden/bias"),
        ("weight/hidden/kernel", "weight/hidden/kernel"),
    ],
)
def test_the_end_of_a_name_will_do_where_it_is_unique(run, short, name):
    assert run[short].name == name
    assert short in run
    xr.testing.assert_identical(run[short].merged("l2"), run[name].merged("l2"))
    assert run.plot.curves(short).layout.title.text == run.plot.curves(name).layout.title.text


def test_what_is_not_unique_is_refused_with_all_that_it_may_mean(run):
    with pytest.raises(
        UnknownSignalError, match="several signals that end in 'kernel'"
    ) as told:
        run["kernel"]
    assert "gradient/hidden/kernel, weight/hidden/kernel; write one" in str(told.value)
    for absent in ("kernel", "idden", "hidden/", "", "conv", 0, None, ("loss",)):
        assert absent not in run
        with pytest.raises(UnknownSignalError):
            run[absent]


def test_a_run_names_its_signals(run):
    assert list(run) == list(run.keys()) == run.signals == NAMES
    assert isinstance(run.signals, list)
    assert run.keys() == set(NAMES)
    assert [signal.name for signal in dict(run).values()] == NAMES
    assert len(run) == 25


def test_a_run_is_a_context(fake):
    with dw.open_run(fake.path) as run:
        assert len(run["loss"].merged("mean")) == 25
    with pytest.raises(ZeroDivisionError), dw.open_run(fake.path) as run:
        _ = 1 / 0
    # Nothing was held open, so it can still be read.
    assert len(run["hidden"].merged("mean")) == 25


def test_a_statistic_is_chosen_where_none_is_named(run, fake):
    size = run["hidden"].merged()
    for step in range(25):
        np.testing.assert_allclose(size[step], np.abs(fake.whole(step, 0)).mean(), rtol=1e-12)
    own = run["hidden"].per_replica()
    assert own.dims == ("step", "replica")
    np.testing.assert_allclose(own[3, 1], np.abs(fake.deltas[3, 1, 0]).mean(), rtol=1e-12)
    # The last replica has no element at every fifth step.
    assert np.isnan(own[4, 2])
    assert (run["hidden"].statistic, size.name) == ("size", "size")
    for name in ("loss", "input", "data/input"):
        assert run[name].statistic == "mean"
        xr.testing.assert_identical(run[name].merged(), run[name].merged("mean"))


def test_the_size_is_that_of_the_finite_elements(tmp_path):
    deltas = np.array([[[[1.0, -3.0, np.nan]], [[np.inf, 5.0, -7.0]]]])
    signal = dw.open_run(made_run(tmp_path / "run.zarr", deltas))["layer_0"]
    assert signal.merged().item() == 4.0
    assert signal.per_replica().values.tolist() == [[2.0, 6.0]]


def test_a_signal_is_drawn(run):
    for name in ("loss", "hidden"):
        signal = run[name]
        assert signal.plot() == run.plot.curves(name, signal.statistic)
    assert run["hidden"].plot("std") == run.plot.curves("hidden", "std")
    with pytest.raises(ConfigError, match="unknown statistic"):
        run["hidden"].plot("median")


def test_a_signal_is_a_dataset(run):
    signal, whole = run["hidden"], run.to_xarray()
    xr.testing.assert_identical(
        signal.to_xarray().drop_attrs(), whole.sel(signal=signal.name).drop_attrs()
    )
    merged = run.to_xarray(merged=True).sel(signal=signal.name)
    xr.testing.assert_identical(signal.to_xarray(merged=True).drop_attrs(), merged.drop_attrs())


def test_a_signal_is_a_table(run):
    frame = run["hidden"].to_pandas()
    assert frame.index.names == ["step", "replica"]
    assert len(frame) == 25 * 3
    assert [*frame.columns[:3]] == ["epoch", "iteration", "count"]
    assert frame["count"].dtype == np.int64
    want = run["hidden"].per_replica("l2")
    assert frame.loc[(7, 2), "l2"] == want.sel(step=7, replica=2).item()
    merged = run["hidden"].to_pandas(merged=True)
    assert merged.index.name == "step"
    pd.testing.assert_series_equal(merged["mean"], run["hidden"].merged("mean").to_series())
    assert "spread" in merged


def test_a_run_is_a_table_of_what_was_recorded(tmp_path):
    often = Table("table-00", (Signal("loss", "none"),), "every(1)", 4)
    rarely = Table("table-01", (Signal("activation/dense"),), "every(3)", 4)
    info = RunInfo((often, rarely), (0, 1), "made up", {})
    blocks = [
        fake_block(info, table, steps, lambda step, replica, _: [step, 10.0 * replica + 5])
        for table, steps in ((often, range(4)), (rarely, (0, 3)))
    ]
    write_fake(tmp_path / "run.zarr", (info, blocks))
    run = dw.open_run(tmp_path / "run.zarr")
    frame = run.to_dataframe()
    assert frame.index.names == ["step", "replica", "signal"]
    assert len(frame) == (4 + 2) * 2
    assert frame["count"].dtype == frame["epoch"].dtype == np.int64
    assert frame.loc[(3, 1, "activation/dense"), "mean"] == 9.0
    assert (1, 0, "activation/dense") not in frame.index
    merged = run.to_dataframe(merged=True)
    assert merged.index.names == ["step", "signal"]
    assert merged.loc[(2, "loss"), "spread"] == 5.0
    empty = dw.open_run(fake_run(tmp_path / "empty.zarr", steps=0).path)
    assert len(empty.to_dataframe()) == 0


def test_runs_and_signals_say_what_they_are(run, tmp_path):
    assert repr(run) == (
        f"<distwatch.Run {str(run.path)!r}: 25 steps, 3 replicas, 8 signals: "
        "activation/encoder/hidden, activation/output, loss, input, ...>"
    )
    assert repr(run["hidden"]) == (
        "<distwatch.SignalView 'activation/encoder/hidden': change against 'previous', "
        "25 steps, 3 replicas, size by default>"
    )
    one = dw.open_run(made_run(tmp_path / "a.zarr", ordinary(1, 1, 1), reference="none"))
    assert ": 1 step, 1 replica, 1 signal: activation/layer_0>" in repr(one)
    assert "values, 1 step, 1 replica, size" in repr(one["layer_0"])


def svg_of(signal):
    shown = signal._repr_html_()
    return ET.fromstring(shown[shown.index("<svg") : shown.index("</svg>") + 6])


def parts_of(svg, name):
    return svg.findall(f"{{http://www.w3.org/2000/svg}}{name}")


def test_a_signal_has_a_picture(run):
    shown = run["hidden"]._repr_html_()
    assert "change against &#x27;previous&#x27;, 25 steps" in shown
    svg = svg_of(run["hidden"])
    (line,) = parts_of(svg, "polyline")
    points = np.array([each.split(",") for each in line.get("points").split()], float)
    values = run["hidden"].merged().values
    # Linear in step and value, the largest value on top.
    assert len(points) == 25
    assert np.corrcoef(points[:, 0], np.arange(25))[0, 1] == pytest.approx(1, abs=1e-6)
    assert np.corrcoef(points[:, 1], values)[0, 1] == pytest.approx(-1, abs=1e-4)
    texts = [each.text for each in parts_of(svg, "text")]
    assert texts[:2] == [f"{values.max():.4g}", f"{values.min():.4g}"]
    assert texts[2] == "mean |change|, steps 0 to 24"


def test_a_picture_marks_nan_and_leaves_gaps(tmp_path):
    deltas = ordinary(30, 2, 1)
    deltas[12, 1, 0, 2] = np.inf
    deltas[20] = np.nan
    steps = [*range(10), *range(40, 60)]
    run = dw.open_run(made_run(tmp_path / "run.zarr", deltas, step=steps))
    svg = svg_of(run["layer_0"])
    # Before and after the missing steps, and after the step without any finite value.
    lines = [line.get("points").split() for line in parts_of(svg, "polyline")]
    assert [len(points) for points in lines] == [10, 10, 9]
    assert len(parts_of(svg, "path")) == 2


def test_a_picture_of_nothing_says_so(tmp_path):
    deltas = np.full((3, 2, 1, 4), np.nan)
    svg = svg_of(dw.open_run(made_run(tmp_path / "run.zarr", deltas))["layer_0"])
    assert parts_of(svg, "text")[0].text == "no step has a finite value"
    empty = dw.open_run(fake_run(tmp_path / "empty.zarr", steps=0).path)
    assert "0 steps" in empty["dense"]._repr_html_()
    constant = dw.open_run(made_run(tmp_path / "c.zarr", np.full((2, 1, 1, 3), 7.0)))
    (line,) = parts_of(svg_of(constant["layer_0"]), "polyline")
    assert line.get("points") == "2.0,45.0 358.0,45.0"


def test_of_a_long_signal_the_end_is_drawn_and_that_is_said(tmp_path, monkeypatch):
    long = long_run(tmp_path / "run.zarr", steps=20_000, tables=(LongTable(4),), replicas=2)
    monkeypatch.setattr(notebook, "MOST_STATES", 8 * 500)
    signal = dw.open_run(long.path)[long_name(long)]
    with chunk_files() as opened:
        shown = signal._repr_html_()
    assert "The last 500 of 20,000 steps are drawn" in shown
    assert "steps 19500 to 19999" in shown
    assert 2 <= len({key for key in opened if key.startswith("rows/")}) <= 3


def long_name(long):
    return dw.open_run(long.path).signals[0]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_no_markup_in_a_picture(tmp_path, name):
    run = dw.open_run(made_run(tmp_path / "run.zarr", ordinary(5, 2, 1), names=[name]))
    shown = run[name]._repr_html_()
    for harm in ("<script", "<img", "<a ", "<!--", "<b>bold"):
        assert harm not in shown
    assert "\n" not in repr(run)
