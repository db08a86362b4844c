"""What Jupyter shows of a run: its summary, read within a moment, and never markup."""

import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from chosen_runs import HOSTILE, made_run, ordinary
from long_runs import LongTable, chunk_files, long_run

import distwatch as dw
from distwatch.analysis import notebook
from distwatch.analysis.figures import svg
from distwatch.analysis.figures.style import BROKEN
from distwatch.testing.fake import fake_run


def test_it_is_the_summary_and_the_facts(tmp_path):
    run = dw.open_run(fake_run(tmp_path / "run.zarr", steps=25, replicas=3, lost=2).path)
    shown = run._repr_html_()
    for line in run.summary().splitlines():
        assert line.replace("'", "&#x27;") in shown
    assert "made up, 3 x CPU" in shown
    assert "About the last" not in shown


def test_of_a_long_run_the_end_is_read_and_that_is_said(tmp_path, monkeypatch):
    long = long_run(tmp_path / "run.zarr", steps=20_000, tables=(LongTable(4),), replicas=2)
    monkeypatch.setattr(notebook, "MOST_STATES", 8 * 500)
    run = dw.open_run(long.path)
    with chunk_files() as opened:
        shown = run._repr_html_()
    assert "About the last 500 of 20,000 steps" in shown
    assert "500 steps, 4 signals" in shown
    chunks = {key for key in opened if key.startswith("rows/")}
    assert 2 <= len(chunks) <= 3


def test_a_run_without_rows_is_shown(tmp_path):
    run = dw.open_run(fake_run(tmp_path / "run.zarr", steps=0).path)
    assert "No step was recorded" in run._repr_html_()


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_no_markup(tmp_path, name):
    run = dw.open_run(made_run(tmp_path / "run.zarr", ordinary(5, 2, 1), names=[name]))
    shown = run._repr_html_()
    for harm in ("<script", "<img", "<a ", "<!--", "<b>bold"):
        assert harm not in shown
    assert "activation/" in shown


def test_where_plotly_is_not_shown_there_is_a_picture(tmp_path, monkeypatch):
    formatters = pytest.importorskip("IPython.core.formatters")
    import plotly.io

    run = dw.open_run(made_run(tmp_path / "run.zarr", ordinary(12, 2, 1), names=["loss"]))
    monkeypatch.setattr(plotly.io.renderers, "default", "plotly_mimetype")
    shown, _ = formatters.DisplayFormatter().format(run.plot.curves("loss"))
    # Nothing of it is loaded from a network.
    assert set(shown) == {"application/vnd.plotly.v1+json", "image/svg+xml", "text/plain"}
    assert "<title>loss</title>" in shown["image/svg+xml"]
    assert len(shown["application/vnd.plotly.v1+json"]["data"]) == 7
    # A renderer of the user's own stays in charge.
    monkeypatch.setattr(plotly.io.renderers, "default", "json")
    own = run.plot.curves("loss")
    assert "_ipython_display_" not in vars(own)


class Elements(dict):
    """The elements of a picture by their names, each with its attributes and text."""

    def __init__(self, picture):
        super().__init__()
        for each in ElementTree.fromstring(picture.svg).iter():
            self.setdefault(each.tag.rpartition("}")[2], []).append(each)

    @property
    def texts(self):
        return [each.text for each in self["text"]]


@pytest.fixture
def pictured(tmp_path, monkeypatch):
    """A run of 60 steps on 3 replicas, where there is no plotly; its first signal has a NaN."""
    deltas = ordinary(60, 3, 2)
    deltas[20, 1, 0, 3] = np.nan
    deltas[40, :, 1] *= 50.0
    deltas[:, 2, 0] += 1.0
    run = made_run(tmp_path / "run.zarr", deltas, histogram=True, ratio=True)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    return dw.open_run(run)


def test_a_picture_of_all_signals_has_a_row_each(pictured):
    shown = Elements(pictured.plot.heatmap())
    assert shown.texts[:2] == ["activation/layer_0", "activation/layer_1"]
    assert shown.texts[-3:] == ["0", "step", "59"]
    rows = [
        [each.attrib for each in shown["rect"] if each.attrib["y"] == y] for y in ("18", "34")
    ]
    # NaN is at step 20 of 60, and the spike at step 40 is the lightest.
    (broken,) = (each for each in rows[0] if each["fill"] == BROKEN)
    column = (svg.WIDTH - 4 - svg.NAMES) / 60
    assert float(broken["x"]) == pytest.approx(svg.NAMES + 20 * column, abs=0.1)
    (spike,) = (each for each in rows[1] if each["fill"] == svg.viridis(1.0))
    assert float(spike["x"]) == pytest.approx(svg.NAMES + 40 * column, abs=0.1)


def test_a_picture_of_many_signals_says_what_it_leaves_out(tmp_path, monkeypatch):
    run = dw.open_run(made_run(tmp_path / "run.zarr", ordinary(6, 2, 50)))
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    assert "step; 10 more signals are left out" in Elements(run.plot.heatmap()).texts


def test_a_picture_shows_where_replicas_differ(pictured):
    shown = Elements(pictured.plot.divergence())
    assert shown.texts[:2] == ["activation/layer_0", "activation/layer_1"]
    assert shown.texts[2:5] == ["replica 0", "replica 1", "replica 2"]
    # Those of the first row: replica 2 is on the other side of the two others.
    zero, _, two = (
        float(each.attrib["cx"])
        for each in shown["circle"]
        if each.attrib["cy"] == f"{svg.MARGIN + svg.ROW / 2:.1f}"
    )
    assert two > zero + 50


def test_a_picture_of_update_ratios_names_them(pictured):
    shown = Elements(pictured.plot.update_ratios())
    assert {"activation/layer_0", "activation/layer_1", "0.0001"} <= set(shown.texts)
    lines = [each for each in shown["path"] if each.attrib.get("fill") == "none"]
    # The one with NaN has a gap there.
    assert sorted(each.attrib["d"].count("L") for each in lines) == [57, 59]


def test_a_picture_of_a_distribution_has_a_ridge_for_each_part(pictured):
    shown = Elements(pictured.plot.ridgeline("activation/layer_0"))
    assert len(shown["polygon"]) == sum(text.startswith("steps ") for text in shown.texts) > 5


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_no_markup_in_pictures(tmp_path, monkeypatch, name):
    deltas = ordinary(5, 2, 1)
    path = made_run(tmp_path / "run.zarr", deltas, names=[name], histogram=True, ratio=True)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    plot = dw.open_run(path).plot
    for shown in (
        plot.heatmap(), plot.divergence(), plot.update_ratios(), plot.ridgeline(name),
    ):  # fmt: skip
        tags = {*Elements(shown)}
        assert tags <= {"svg", "title", "text", "rect", "path", "circle", "polygon"}


def test_every_figure_is_also_a_picture_in_a_notebook(tmp_path, monkeypatch):
    pytest.importorskip("IPython.core.formatters")
    import plotly.io

    path = made_run(tmp_path / "run.zarr", ordinary(9, 2, 1), histogram=True, ratio=True)
    monkeypatch.setattr(plotly.io.renderers, "default", "plotly_mimetype")
    plot = dw.open_run(path).plot
    for made in (
        plot.heatmap(), plot.divergence(), plot.update_ratios(),
        plot.ridgeline("activation/layer_0"),
    ):  # fmt: skip
        shown = made._repr_mimebundle_()
        assert "application/vnd.plotly.v1+json" in shown
        # Readable on dark paper, since it brings its own.
        assert "background:#ffffff" in shown["image/svg+xml"]
