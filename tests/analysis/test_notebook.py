"""What Jupyter shows of a run: its summary, read within a moment, and never markup."""

import pytest
from chosen_runs import HOSTILE, made_run, ordinary
from long_runs import LongTable, chunk_files, long_run

import distwatch as dw
from distwatch.analysis import notebook
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
