"""Figures show what is in a run, and no text of a store is more than text in them."""

import sys

import numpy as np
import pytest
from chosen_runs import HOSTILE, made_run, ordinary

import distwatch as dw
from distwatch.analysis.figures import (
    Compared,
    comparison,
    curves,
    heatmap,
    ranked,
    shown,
    side_by_side,
)
from distwatch.analysis.figures.heatmap import relative, scale_of
from distwatch.analysis.figures.labels import LABEL, NARROW, labels
from distwatch.analysis.figures.style import INK, TIMES
from distwatch.analysis.overview import Extent, read_overview
from distwatch.errors import ConfigError, SetupError, UnknownSignalError
from distwatch.store import StoredRun
from distwatch.testing.fake import fake_run

LAYER = "activation/layer_0"


def parts(figure, part):
    return [trace for trace in figure.data if trace.meta["part"] == part]


@pytest.fixture
def run(tmp_path):
    deltas = ordinary(60, 3, 2)
    deltas[20, 1, 0, 3] = np.nan
    return dw.open_run(made_run(tmp_path / "run.zarr", deltas))


def test_a_line_is_a_replica_and_the_last_one_all_of_them(run):
    figure = run.plot.curves(LAYER, "std")
    lines = parts(figure, "line")
    assert [line.name for line in lines] == [
        "replica 0", "replica 1", "replica 2", "all replicas",
    ]  # fmt: skip
    for place, line in enumerate(lines[:-1]):
        np.testing.assert_array_equal(line.y, run[LAYER].per_replica("std")[:, place])
    np.testing.assert_array_equal(lines[-1].y, run[LAYER].merged("std"))
    np.testing.assert_array_equal(lines[0].x, np.arange(60))
    colours = [line.line.color for line in lines]
    assert len(set(colours)) == 4


def test_a_cross_is_a_step_with_nan(run):
    (crosses,) = parts(run.plot.curves(LAYER), "broken")
    assert crosses.x.tolist() == [20]
    assert crosses.showlegend
    (none,) = parts(run.plot.curves("activation/layer_1"), "broken")
    assert (len(none.x), none.showlegend) == (0, False)


def test_a_gap_is_not_bridged(tmp_path):
    step = [*range(30), *range(50, 80)]
    path = made_run(tmp_path / "run.zarr", ordinary(60, 2, 1), step=step)
    line = parts(dw.open_run(path).plot.curves(LAYER), "line")[-1]
    (gap,) = np.flatnonzero(np.isnan(line.x))
    assert (line.x[gap - 1], line.x[gap + 1]) == (29, 50)
    assert np.isnan(line.y[gap])
    overview = read_overview(StoredRun(path), extent=Extent(bins=10))
    band = parts(curves(overview.history(LAYER)), "band")[-1]
    outlines = np.split(band.x, np.flatnonzero(np.isnan(band.x)))
    ends = [(np.nanmin(each), np.nanmax(each)) for each in outlines if not np.isnan(each).all()]
    assert len(ends) == 2
    assert ends[0][1] < 30 and ends[1][0] > 49


def test_a_spike_stands_out_of_a_thinned_curve_and_heat_map(tmp_path):
    deltas = ordinary(2000, 2, 1)
    deltas[1234] *= 100.0
    overview = read_overview(
        StoredRun(made_run(tmp_path / "run.zarr", deltas)), extent=Extent(bins=50)
    )
    history = overview.history(LAYER)
    band = parts(curves(history), "band")[-1]
    top = int(np.nanargmax(band.y))
    assert band.y[top] == pytest.approx(np.abs(deltas[1234]).mean(), rel=1e-6)
    assert abs(band.x[top] - 1234) <= 20
    heat = heatmap(overview).data[0]
    column = int(np.argmax(heat.customdata[0]))
    assert heat.x[column] <= 1234 <= heat.x[column + 1]
    assert heat.z[0, column] > heat.zmax > np.delete(heat.z[0], column).max()


def test_the_heat_map_is_of_all_or_of_one_replica(run):
    for replica in (None, 0, 2):
        heat = run.plot.heatmap("std", replica).data[0]
        expected = (
            run.to_xarray(merged=True)["std"]
            if replica is None
            else run.to_xarray()["std"].sel(replica=replica)
        )
        np.testing.assert_array_equal(heat.customdata, expected.T)
    with pytest.raises(ConfigError, match="no replica 3; it has: 0, 1, 2"):
        run.plot.heatmap(replica=3)
    with pytest.raises(ConfigError, match="may be below zero"):
        run.plot.heatmap("mean")
    with pytest.raises(ConfigError, match="no signal of the run has 'ratio'"):
        run.plot.heatmap("ratio")


def test_colours_are_multiples_of_a_rows_median():
    values = np.array([[1.0, 1.0, 2.0, 0.5, 100.0, 0.0, np.nan], [0.0] * 7, [1e9] * 7])
    found = relative(values)
    np.testing.assert_array_equal(found[0], [0, 0, 1, -1, 6, -6, np.nan])
    np.testing.assert_array_equal(found[1:], 0)


def test_colours_are_spread_over_what_most_values_are():
    random = np.random.default_rng(0)
    wide = random.normal(1.0, 1.5, (4, 500))
    wide[0, 0] = 6.0
    scale, marks = scale_of(wide)
    inside = (wide > scale["zmin"]) & (wide < scale["zmax"])
    assert inside.mean() == pytest.approx(0.96, abs=0.005)
    assert marks["tickvals"] == [-2, 0, 2]
    assert marks["ticktext"] == [f"{times}{TIMES}" for times in ("0.25", "1", "4")]
    # What hardly varies looks calm, and no scale is empty.
    calm = {"zmin": -np.log2(1.25), "zmax": np.log2(1.25)}
    for values in (random.normal(0.0, 1e-3, (4, 500)), np.full((2, 3), np.nan)):
        scale, marks = scale_of(values)
        assert scale == calm
        assert marks["ticktext"] == [f"{times}{TIMES}" for times in ("0.8", "1", "1.25")]


def test_nan_is_marked_in_the_heat_map(tmp_path):
    deltas = ordinary(2000, 2, 3)
    deltas[700, 1, 2] = np.nan
    path = made_run(tmp_path / "run.zarr", deltas)
    (marked,) = parts(dw.open_run(path).plot.heatmap(), "broken")
    rows, columns = np.nonzero(~np.isnan(marked.z))
    assert set(rows) == {2}
    # A thousand columns: one of them would be too thin to see.
    assert len(columns) == 7
    assert marked.x[columns[0]] <= 700 < marked.x[columns[-1] + 1]
    (other,) = parts(dw.open_run(path).plot.heatmap(replica=0), "broken")
    assert np.isnan(other.z).all()


@pytest.mark.parametrize(("signals", "height", "labelled"), [(9, 314, 9), (300, 1316, 100)])
def test_a_heat_map_fits_on_a_screen(tmp_path, signals, height, labelled):
    path = made_run(tmp_path / "run.zarr", ordinary(4, 2, signals))
    figure = dw.open_run(path).plot.heatmap()
    assert figure.layout.height == height
    assert len(figure.layout.yaxis.ticktext) == labelled
    bar = figure.data[0].colorbar
    # Above the rows it is whole, however few there are.
    assert (bar.orientation, bar.yanchor, bar.y) == ("h", "bottom", 1)


def test_labels_differ_where_names_do():
    names = [f"activation/encoder/block_{i}/attention/query/kernel" for i in range(12)]
    names += ["loss", *(f"a/{'x' * 60}{i}{'y' * 60}" for i in range(3))]
    for longest in (LABEL, NARROW):
        found = labels(names, longest)
        assert len(set(found)) == len(names)
        assert found[12] == "loss"
        assert max(map(len, found)) <= longest
    assert "block_7" in labels(names, NARROW)[7]


def test_a_figure_is_readable_on_any_paper(run):
    for figure in (run.plot.curves(LAYER), run.plot.heatmap(), run.plot.divergence()):
        assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "#ffffff"
        assert figure.layout.font.color == INK


def test_where_nan_lasts_there_is_a_shade(tmp_path):
    deltas = ordinary(60, 2, 1)
    deltas[20, 0, 0, 3] = np.nan
    deltas[30:41, 1, 0, 3] = np.nan
    figure = dw.open_run(made_run(tmp_path / "run.zarr", deltas)).plot.curves(LAYER)
    assert parts(figure, "broken")[0].x.tolist() == [20, 30]
    (shade,) = figure.layout.shapes
    assert (shade.x0, shade.x1) == (30, 40)


def test_divergence_ranks_and_leaves_out_what_is_equal(tmp_path):
    deltas = np.random.default_rng(0).normal(0.0, 1.0, (30, 3, 3, 40))
    deltas[:, 1, 1] += 3.0
    deltas[:, :, 2] = deltas[:, :1, 2]
    run = dw.open_run(made_run(tmp_path / "run.zarr", deltas))
    figure = run.plot.divergence()
    assert figure.layout.yaxis.ticktext == ("activation/layer_1", "activation/layer_0")
    bar, *dots = figure.data
    assert bar.x[0] > 4 * bar.x[1]
    assert [dot.x[0] > 1 for dot in dots] == [False, True, False]


def test_a_loss_is_among_what_differs(tmp_path):
    """One number on each replica, whose mean the replicas' noise does not hide."""
    random = np.random.default_rng(0)
    loss = 5.0 + random.normal(0.0, 0.2, (400, 3, 1, 1))
    loss -= np.linspace(0, 2, 400)[:, None, None, None]  # it falls
    loss[:, 2] += 0.6
    path = made_run(tmp_path / "run.zarr", loss, names=["loss"], reference="none")
    bar, *dots = dw.open_run(path).plot.divergence().data
    values = loss[:, :, 0, 0]
    noise = np.sqrt((np.diff(values, axis=0) ** 2).mean() / 2)
    assert noise == pytest.approx(0.2, rel=0.1)
    offset = (values.mean(axis=0) - values.mean()) / noise
    np.testing.assert_allclose([dot.x[0] for dot in dots], offset)
    assert bar.x[0] == pytest.approx(offset.max() - offset.min())
    # Of equal losses the distance is not that of their noise within a step.
    loss[:, 2] -= 0.6
    path = made_run(tmp_path / "equal.zarr", loss, names=["loss"], reference="none")
    assert dw.open_run(path).plot.divergence().data[0].x[0] < 0.3


def test_one_replica_has_nothing_to_diverge_from(tmp_path):
    run = dw.open_run(made_run(tmp_path / "run.zarr", ordinary(10, 1, 1)))
    (note,) = run.plot.divergence().layout.annotations
    assert note.text == "There is no difference."
    with pytest.raises(ConfigError, match="has no 'spread'"):
        run.plot.curves(LAYER, "spread")


def test_update_ratios(tmp_path):
    path = made_run(
        tmp_path / "run.zarr", ordinary(20, 2, 2), ratio=True, names=["update/a", "update/b"]
    )
    figure = dw.open_run(path).plot.update_ratios()
    lines = {line.name: line for line in figure.data}
    expected = dw.open_run(path)["update/b"].merged("ratio")
    np.testing.assert_array_equal(lines["b"].y, expected)
    assert figure.layout.yaxis.type == "log"


def test_ridges_are_where_the_values_are(tmp_path):
    deltas = np.random.default_rng(0).normal(0.0, 1.0, (60, 2, 1, 50))
    deltas[30:] += 20.0
    path = made_run(tmp_path / "run.zarr", deltas, histogram=True)
    ridges = parts(dw.open_run(path).plot.ridgeline(LAYER), "ridge")
    tops = [ridge.x[np.argmin(ridge.y)] for ridge in ridges]
    assert abs(tops[0]) < 3 and abs(tops[-1] - 20) < 3
    assert all((ridge.y <= ridge.meta["row"] + 1e-9).all() for ridge in ridges)


def test_what_a_run_does_not_have_is_refused(run):
    with pytest.raises(UnknownSignalError, match="nearest: 'activation/layer_0'"):
        run.plot.curves("activation/layer0")
    with pytest.raises(ConfigError, match="nearest: 'std'"):
        run.plot.curves(LAYER, "stdd")
    with pytest.raises(ConfigError, match="without a histogram"):
        run.plot.ridgeline(LAYER)
    with pytest.raises(ConfigError, match=r"watch with distwatch.updates\(\)"):
        run.plot.update_ratios()


def test_figures_of_a_whole_run_have_names(run):
    by_name, drawn = run.plot.figure("divergence"), run.plot.divergence()
    assert [trace.meta for trace in by_name.data] == [trace.meta for trace in drawn.data]
    np.testing.assert_array_equal(by_name.data[0].x, drawn.data[0].x)
    with pytest.raises(ConfigError, match="unknown figure 'ratios'; nearest: 'update-ratios'"):
        run.plot.figure("ratios")
    with pytest.raises(ConfigError, match=r"watch with distwatch.updates\(\)"):
        run.plot.figure("update-ratios")


def test_plots_are_of_what_was_committed_when_the_run_was_refreshed(run):
    assert run.plot is run.plot
    before = run.plot
    assert run.refresh().plot is not before
    assert "curves(signal)" in repr(run.plot)


def test_without_plotly_there_are_pictures_and_the_remedy_is_said(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    shown = run.plot.curves(LAYER)
    assert "<polyline" in shown._repr_svg_()
    assert 'pip install "distwatch[report]"' in repr(shown)
    with pytest.raises(SetupError, match=r'pip install "distwatch\[report\]"'):
        curves(read_overview(StoredRun(run.path)).history(LAYER))


def test_two_runs_are_compared_on_what_both_have(tmp_path):
    one = made_run(tmp_path / "a.zarr", ordinary(30, 2, 2), names=["loss", "only/a"])
    deltas = ordinary(50, 3, 2)
    deltas[:, :, 0] *= 8.0
    other = made_run(tmp_path / "b.zarr", deltas, names=["loss", "only/b"], reference="first")
    a, b = (read_overview(StoredRun(path)) for path in (one, other))
    compared = Compared([a, b])
    assert compared.common == ["loss"]
    assert compared.not_in_all == [["only/a"], ["only/b"]]
    assert compared.otherwise_measured == ["loss"]
    (dots,) = parts(comparison(compared), "times")
    # Three replicas of mean 1, 2 and 3 against two of 1 and 2, times 8.
    assert dots.customdata[0] == pytest.approx(8 * 2.0 / 1.5, rel=0.1)
    lines = parts(side_by_side(a.history("loss"), b.history("loss")), "line")
    for line, path in zip(lines, (one, other), strict=True):
        known = dw.open_run(path)["loss"]
        size = known.merged("l1") / known.merged("count")
        np.testing.assert_allclose(line.y, size)


def test_of_several_runs_what_differs_most_comes_first(tmp_path):
    overviews = []
    for place, times in enumerate([(1, 1, 1), (2, 1, 1), (1, 16, 1), (1, 1, 0.25)]):
        deltas = ordinary(30, 2, 3, seed=place) * np.array(times)[:, None]
        overviews.append(read_overview(StoredRun(made_run(tmp_path / f"{place}.zarr", deltas))))
    names, multiples = ranked(Compared(overviews), "size", 20)
    assert names == ["activation/layer_1", "activation/layer_2", "activation/layer_0"]
    np.testing.assert_allclose(multiples, [[0, 0, 4, 0], [0, 0, 0, -2], [0, 1, 0, 0]], atol=0.1)
    figure = comparison(Compared(overviews))
    (reach,) = parts(figure, "reach")
    np.testing.assert_allclose(reach.x, [4, 2, 1], atol=0.15)
    assert [dots.name for dots in parts(figure, "times")] == ["run B", "run C", "run D"]


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_shown_as_they_are(name):
    text = shown(name)
    assert not set("<>$%{}\n\u2028") & set(text)
    assert len(shown("x" * 10_000)) < 100


def test_no_text_of_a_figure_is_markup(tmp_path):
    path = made_run(
        tmp_path / "run.zarr", ordinary(20, 2, len(HOSTILE)),
        names=list(HOSTILE), histogram=True, ratio=True,
    )  # fmt: skip
    run = dw.open_run(path)
    drawn = [run.plot.heatmap(), run.plot.divergence(), run.plot.update_ratios()]
    drawn += [run.plot.curves(name) for name in HOSTILE]
    drawn += [run.plot.ridgeline(name) for name in HOSTILE]
    for figure in drawn:
        layout = figure.layout
        texts = [layout.title.text or "", *(layout.yaxis.ticktext or ())]
        texts += [trace.name or "" for trace in figure.data]
        assert not [text for text in texts if "<" in text or "%{" in text or "$" in text]


def test_a_fake_run_is_drawn_whole(tmp_path):
    run = dw.open_run(fake_run(tmp_path / "run.zarr", steps=25, replicas=3).path)
    merged = parts(run.plot.curves("activation/dense"), "line")[-1]
    known = run["activation/dense"]
    np.testing.assert_allclose(merged.y, known.merged("l1") / known.merged("count"))
