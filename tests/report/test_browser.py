"""The page in a browser: it draws, asks nobody for anything, and no name does harm."""

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chosen_runs import HOSTILE, made_run, ordinary
from long_runs import LongTable, long_run

from distwatch.analysis.figures import curves, heatmap
from distwatch.analysis.figures.heatmap import scale_of
from distwatch.findings import WARNING, Finding
from distwatch.records import Epoch
from distwatch.report import read_runs, write_page
from distwatch.report.browsers import browser
from distwatch.store import Times

pytestmark = pytest.mark.slow

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

#: Where a step is planted that is a hundred times as large as the others.
STEPS, SPIKE = 1600, 1234

READY = "html[data-ready='yes']"

#: Epochs whose validation loss rises while that of the training falls.
OVERFITTED = tuple(
    Epoch(i, 10 * i + 10, {"loss": 1.0 / (1 + i), "val_loss": 1.0 + 0.1 * abs(i - 1)})
    for i in range(12)
)


@pytest.fixture(scope="module")
def chromium():
    if browser() is None:
        if "CI" in os.environ:
            pytest.fail("there is no Chromium on the PATH, and CI has to look at the page")
        pytest.skip("there is no Chromium on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser(), args=FLAGS)
        yield opened
        opened.close()


class Page:
    """A report that is open, and what it did."""

    def __init__(self, chromium, path, width=1280, **context):
        self.page = chromium.new_context(
            viewport={"width": width, "height": 900}, **context
        ).new_page()
        self.asked, self.said = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.url = Path(path).resolve().as_uri()
        self.page.goto(self.url)
        self.page.wait_for_selector(READY, timeout=60_000)

    def assert_quiet(self):
        assert self.said == []
        assert {asked.partition("#")[0] for asked in self.asked} == {self.url}

    def chart(self, name):
        """The data of a chart, as plotly has it."""
        return self.page.evaluate(
            """name => document.getElementById(name).data.map(trace => ({
                ...trace, x: Array.from(trace.x), y: Array.from(trace.y),
                z: trace.z && trace.z.map(row => Array.from(row)),
                customdata: trace.customdata && trace.customdata.map(row => Array.from(row)),
            }))""",
            name,
        )


def floats(values):
    return np.array([np.nan if value is None else value for value in values], float)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A long run with a spike, NaN and a gap, its report, and what it was made of."""
    folder = tmp_path_factory.mktemp("browser")
    deltas = ordinary(STEPS, 2, 3)
    deltas[SPIKE, :, 1] *= 100.0
    deltas[700, 1, 2, 0] = np.nan
    step = np.arange(STEPS) + 400 * (np.arange(STEPS) >= 1300)
    path = made_run(folder / "long.zarr", deltas, step=step)
    runs = read_runs([path], budget=60_000)
    write_page(runs, folder / "report.html")
    return folder / "report.html", runs[0].overview, deltas


@pytest.fixture(scope="module")
def opened(chromium, written):
    return Page(chromium, written[0])


@pytest.fixture
def page(opened):
    """The page as it is at first: opening it anew takes seconds."""
    opened.page.fill("#heat-filter", "")
    opened.page.select_option("#heat-series", "-1")
    opened.page.select_option("#heat-statistic", "size")
    opened.page.fill("#curve-filter", "")
    opened.page.select_option("#curve-signal", "0")
    opened.page.select_option("#curve-statistic", "size")
    opened.page.uncheck("#curve-log")
    return opened


def test_it_opens_without_an_error_and_without_a_network(page):
    page.assert_quiet()
    assert page.page.evaluate("document.querySelectorAll('.chart .main-svg').length") >= 3
    drawn = page.page.evaluate("document.querySelectorAll('.scatterlayer .trace path').length")
    assert drawn >= 3
    assert page.page.evaluate("document.querySelectorAll('.heatmaplayer image').length") == 2
    assert page.page.locator(".findings li").count() >= 3


def test_the_first_signal_is_one_that_stands_out(written, chromium):
    fresh = Page(chromium, written[0])
    chosen = fresh.page.evaluate("document.getElementById('curve-signal').value")
    assert chosen in ("1", "2")  # the one with the spike, or the one with NaN


def test_a_spike_of_one_step_is_on_the_page(page, written):
    _, overview, deltas = written
    assert len(overview.histories[0].bins) < STEPS / 4
    page.page.select_option("#curve-signal", label="activation/layer_1")
    band = next(
        t
        for t in page.chart("curves")
        if t["meta"] == {"part": "band", "series": 2, "ink": True}
    )
    y = floats(band["y"])
    top = int(np.nanargmax(y))
    assert y[top] == pytest.approx(np.abs(deltas[SPIKE, :, 1]).mean(), rel=1e-6)
    assert abs(band["x"][top] - SPIKE) < 60
    heat = page.chart("heat-0")[0]
    column = int(np.argmax(heat["customdata"][1]))
    assert heat["x"][column] <= SPIKE <= heat["x"][column + 1]
    assert heat["z"][1][column] > heat["zmax"]


@pytest.mark.parametrize(("signal", "statistic"), [(1, "size"), (2, "size"), (0, "spread")])
def test_what_is_chosen_is_drawn_as_python_draws_it(page, written, signal, statistic):
    overview = written[1]
    name = f"activation/layer_{signal}"
    page.page.select_option("#curve-signal", label=name)
    page.page.select_option("#curve-statistic", statistic)
    expected = curves(overview.history(name, statistic))
    shown = [trace for trace in page.chart("curves") if trace.get("visible") is not False]
    assert len(shown) == len(expected.data)
    for here, there in zip(shown, expected.data, strict=True):
        assert here["meta"]["part"] == there.meta["part"]
        np.testing.assert_allclose(floats(here["x"]), there.x)
        np.testing.assert_allclose(floats(here["y"]), there.y, rtol=1e-6)
    page.assert_quiet()


def assert_equal_maps(here, there):
    """Values, what covers NaN, and the scale are as Python draws them."""
    for mine, theirs in zip(here, there.data, strict=True):
        np.testing.assert_allclose(mine["x"], theirs.x)
        np.testing.assert_allclose([floats(row) for row in mine["z"]], theirs.z, atol=1e-5)
        assert (mine["zmin"], mine["zmax"]) == pytest.approx(
            (theirs.zmin, theirs.zmax), abs=1e-5
        )
    bar = there.data[0].colorbar
    assert here[0]["colorbar"]["tickvals"] == pytest.approx(bar.tickvals)
    assert tuple(here[0]["colorbar"]["ticktext"]) == bar.ticktext


@pytest.mark.parametrize(
    ("statistic", "series"), [("size", -1), ("size", 0), ("size", 1), ("spread", -1)]
)
def test_the_heat_map_is_as_python_draws_it(page, written, statistic, series):
    overview = written[1]
    page.page.select_option("#heat-statistic", statistic)
    page.page.select_option("#heat-series", str(series))
    there = heatmap(overview, statistic, None if series < 0 else series)
    assert_equal_maps(page.chart("heat-0"), there)


@pytest.mark.parametrize("width", [1e-3, 0.4, 1.5, 9.0])
def test_colours_are_spread_as_python_spreads_them(page, width):
    rows = np.clip(np.random.default_rng(0).normal(0.3, width, (7, 301)), -6, 6)
    here = page.page.evaluate("rows => scaleOf(rows)", rows.tolist())
    scale, marks = scale_of(rows)
    assert (here["low"], here["high"]) == pytest.approx((scale["zmin"], scale["zmax"]))
    assert here["marks"] == pytest.approx(marks["tickvals"])
    assert here["texts"] == marks["ticktext"]


def test_a_row_that_is_chosen_shows_its_curves(page):
    page.page.fill("#heat-filter", "LAYER_2")
    assert len(page.chart("heat-0")[0]["z"]) == 1
    row = page.page.locator("#heat-0 .nsewdrag")
    row.hover(position={"x": 300, "y": 10})
    page.page.wait_for_selector("#heat-0 .hoverlayer .hovertext")
    row.click(position={"x": 300, "y": 10})
    page.page.wait_for_selector('#curves[aria-label^="activation/layer_2"]')
    crosses = [t for t in page.chart("curves") if t["meta"]["part"] == "broken"]
    assert len(crosses[0]["x"]) == 1
    page.assert_quiet()


def test_a_search_finds_signals(page):
    page.page.fill("#curve-filter", "layer_2")
    options = page.page.locator("#curve-signal option").all_text_contents()
    assert options == ["activation/layer_2"]
    page.page.fill("#curve-filter", "nothing like it")
    page.assert_quiet()


def test_a_logarithmic_axis(page):
    page.page.check("#curve-log")
    assert page.page.evaluate("document.getElementById('curves').layout.yaxis.type") == "log"
    page.assert_quiet()


def test_a_finding_opens_its_chart_at_the_step(chromium, written):
    fresh = Page(chromium, written[0])
    fresh.page.click("text=Worth knowing")
    fresh.page.locator(".findings a", has_text="The largest mean absolute change").focus()
    fresh.page.keyboard.press("Enter")
    fresh.page.wait_for_selector("#curves-heading:focus")
    assert fresh.page.evaluate("document.getElementById('curve-signal').value") == "1"
    assert "The dashed line is step 1234." in fresh.page.locator("#curve-said").text_content()
    for name in ("curves", "heat-0"):
        shapes = fresh.page.evaluate(
            "name => document.getElementById(name).layout.shapes", name
        )
        assert SPIKE in [shape["x0"] for shape in shapes]
    assert fresh.page.locator(".small .mark").count() == 3
    # Its address may be handed on.
    assert "step=1234" in fresh.page.url
    assert fresh.said == []


def test_each_signal_has_a_small_chart_that_opens_it(page):
    charts = page.page.locator(".small-chart")
    names = charts.locator(".name").all_text_contents()
    assert names == [f"activation/layer_{i}" for i in range(3)]
    # Two replicas and both together; orange where there is NaN.
    assert charts.first.locator(".line").count() == 3
    assert [charts.nth(i).locator(".broken").count() > 0 for i in range(3)] == [
        False, False, True,
    ]  # fmt: skip
    page.page.fill("#heat-filter", "layer_2")
    assert charts.count() == 1
    charts.first.focus()
    page.page.keyboard.press("Enter")
    page.page.wait_for_selector('#curves[aria-label^="activation/layer_2"]')
    page.assert_quiet()


def test_small_charts_keep_a_spike(page, written):
    chart = page.page.locator(".small-chart").nth(1)
    largest = np.abs(written[2][SPIKE, :, 1]).mean(axis=-1).max()
    low, high = map(float, chart.locator(".extent").text_content().split(" to "))
    assert high == pytest.approx(largest, rel=1e-3)
    assert low < largest / 50
    # One of its bands reaches the top.
    bands = chart.locator(".band").evaluate_all("all => all.map(e => e.getAttribute('d'))")
    points = [point for band in bands for point in re.split("[MLZ]", band) if point]
    heights = np.array([float(point.split()[1]) for point in points])
    assert heights.min() == 4.0 and (heights < 40).mean() < 0.02


def test_zoom_is_of_all_charts(chromium, written):
    fresh = Page(chromium, written[0])
    drag = fresh.page.locator("#curves .nsewdrag")
    drag.scroll_into_view_if_needed()
    box = drag.bounding_box()
    fresh.page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 80)
    fresh.page.mouse.down()
    fresh.page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 90, steps=4)
    fresh.page.mouse.up()
    fresh.page.wait_for_selector("#view-whole:not([hidden])")
    ranges = [
        fresh.page.evaluate("name => document.getElementById(name).layout.xaxis.range", name)
        for name in ("curves", "heat-0")
    ]
    assert ranges[0] == pytest.approx([500, 1000], rel=0.05)
    assert ranges[1] == ranges[0]
    fresh.page.click("#view-whole")
    whole = fresh.page.evaluate("document.getElementById('heat-0').layout.xaxis.range")
    assert whole[0] < 5 and whole[1] > 1990
    fresh.assert_quiet()


def test_the_axis_is_of_steps_or_epochs(page):
    page.page.select_option("#view-axis", "epoch")
    for name in ("curves", "heat-0"):
        axis = page.page.evaluate("name => document.getElementById(name).layout.xaxis", name)
        assert axis["title"]["text"] == "epoch"
        # An epoch of these runs has ten steps.
        assert [int(text) * 10 for text in axis["ticktext"]] == axis["tickvals"]
        assert 5 <= len(axis["tickvals"]) <= 10
    page.page.select_option("#view-axis", "step")
    title = page.page.evaluate("document.getElementById('curves').layout.xaxis.title.text")
    assert title == "step"
    page.assert_quiet()


@pytest.fixture(scope="module")
def timed(chromium, tmp_path_factory):
    """Two runs whose commits have times, those of A others than those of B; and A alone."""
    folder = tmp_path_factory.mktemp("timed")
    deltas = ordinary(80, 2, 2)
    deltas[60, 0, 0, 0] = np.nan
    paths = [made_run(folder / f"{name}.zarr", deltas, ratio=True) for name in "ab"]
    runs = [
        replace(
            run,
            times=Times((0, 40, 80), (0, first, 600), 2),
            epochs=OVERFITTED,
            findings=(Finding("overfitting", WARNING, "It overfits."),),
        )
        for run, first in zip(read_runs(paths), (60, 300), strict=True)
    ]
    write_page(runs, folder / "both.html")
    write_page(runs[:1], folder / "one.html")
    return [Page(chromium, folder / name) for name in ("both.html", "one.html")]


def minutes(steps, first):
    """When steps were done, in minutes."""
    return np.interp(np.asarray(steps) + 1, [0, 40, 80], np.array([0, first, 600]) / 60)


def test_all_charts_are_over_the_time_that_commits_tell(timed):
    for opened, firsts in zip(timed, ((60, 300), (60,)), strict=True):
        opened.page.select_option("#view-axis", "time")
        said = opened.page.locator("#view-said").text_content()
        assert "between two commits, steps are spread evenly" in said
        lines = [t for t in opened.chart("curves") if t["meta"]["part"] == "line"]
        for line in lines:
            first = firsts[line["meta"].get("run", 0)]
            np.testing.assert_allclose(line["x"], minutes(range(80), first), rtol=1e-12)
        for run, first in enumerate(firsts):
            edges = np.arange(-0.5, 80)
            here = opened.chart(f"heat-{run}")[0]["x"]
            np.testing.assert_allclose(here, minutes(edges, first), rtol=1e-12)
            ratios = opened.chart(f"update-ratios-{run}")
            np.testing.assert_allclose(ratios[0]["x"], minutes(range(80), first), rtol=1e-12)
            title = opened.page.evaluate(
                "id => document.getElementById(id).layout.xaxis.title.text", f"heat-{run}"
            )
            assert title == "time since the training began, minutes"
        # The smaller charts end where the last step was done.
        ends = opened.page.locator(".small-chart .line").first.get_attribute("d")
        assert ends.rpartition("L")[2].split()[0] == "240.0"
        opened.page.select_option("#view-axis", "step")
        assert opened.page.locator("#view-said").text_content() == ""
        assert opened.chart("curves")[1]["x"] == list(range(80))
        opened.assert_quiet()


def test_zoom_stays_where_it_is_on_another_axis(timed):
    opened = timed[1]
    opened.page.select_option("#view-axis", "time")
    opened.page.evaluate("look({ range: [timeOf(0, 20), timeOf(0, 60)] })")
    opened.page.select_option("#view-axis", "step")
    for name in ("curves", "heat-0", "update-ratios-0"):
        range_ = opened.page.evaluate(
            "name => document.getElementById(name).layout.xaxis.range", name
        )
        assert range_ == pytest.approx([20, 60])
    opened.page.evaluate("look({ range: null })")
    opened.assert_quiet()


def test_only_what_all_runs_have_can_be_the_axis(timed, page):
    options = "#view-axis option"
    assert timed[0].page.locator(options).all_text_contents() == ["steps", "epochs", "time"]
    assert page.page.locator(options).all_text_contents() == ["steps", "epochs"]


def test_a_finding_of_epochs_opens_their_charts(timed):
    opened = timed[1]
    opened.page.locator(".findings a[href='#epochs-heading']").click()
    opened.page.wait_for_selector("#epochs-heading:focus, #epochs-heading:target")
    assert opened.page.locator("#epochs-section figure").count() == 1
    assert opened.page.locator("#epochs-section .line").count() == 4
    opened.assert_quiet()


def test_lines_are_smoothed(page, written):
    overview = written[1]
    page.page.fill("#view-window", "2")
    assert page.page.locator("#view-window-said").text_content() == "over 5 points"
    line = [t for t in page.chart("curves") if t["meta"]["part"] == "line"][-1]
    known = overview.history("activation/layer_0").mean[:, -1]
    here = floats(line["y"])
    gap = int(np.flatnonzero(np.isnan(here))[0])
    expected = [known[max(0, i - 2) : min(gap, i + 3)].mean() for i in range(gap)]
    np.testing.assert_allclose(here[:gap], expected, rtol=1e-5)
    page.page.fill("#view-window", "0")
    page.assert_quiet()


def test_many_signals_have_labels_that_differ_and_no_box_that_scrolls(chromium, tmp_path):
    names = [f"activation/encoder/block_{i}/attention/query/kernel" for i in range(90)]
    path = made_run(tmp_path / "run.zarr", ordinary(6, 2, 90), names=names)
    write_page(read_runs([path]), tmp_path / "report.html")
    page = Page(chromium, tmp_path / "report.html", width=390)
    ticks = page.page.locator("#heat-0 .ytick text").all_text_contents()
    assert len(ticks) == len(set(ticks)) == 45
    assert not page.page.evaluate(
        """() => [...document.querySelectorAll('section *')].some(e => e.checkVisibility()
            && e.scrollHeight > e.clientHeight && getComputedStyle(e).overflowY === 'auto')"""
    )
    assert page.page.locator(".small-chart").count() == 24
    page.page.click("#small-more")
    assert page.page.locator(".small-chart").count() == 90
    page.assert_quiet()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("runs", [1, 8])
def test_axe_finds_nothing(chromium, tmp_path, scheme, runs):
    """Contrast, names, roles and landmarks, with all details open."""
    from axe_playwright_python.sync_playwright import Axe

    deltas = ordinary(12, 2, 2)
    deltas[6, 0, 0, 0] = np.nan
    paths = [
        made_run(tmp_path / f"{i}.zarr", deltas, histogram=True, ratio=True)
        for i in range(runs)
    ]
    timed = Times((0, 6, 12), (0, 5, 9), 2)
    read = [replace(run, epochs=OVERFITTED, times=timed) for run in read_runs(paths)]
    write_page(read, tmp_path / "report.html")
    page = Page(chromium, tmp_path / "report.html", color_scheme=scheme)
    page.page.select_option("#view-axis", "time")
    page.page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true; })")
    found = Axe().run(page.page).response
    assert len(found["passes"]) > 20
    assert [(each["id"], each["nodes"][0]["html"]) for each in found["violations"]] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_on_a_phone(chromium, written, scheme):
    page = Page(chromium, written[0], width=390, color_scheme=scheme)
    width = page.page.evaluate("document.documentElement.scrollWidth")
    assert width == 390
    too_wide = page.page.evaluate(
        "[...document.querySelectorAll('.chart svg, select, input')]"
        ".filter(e => e.getBoundingClientRect().right > 391).length"
    )
    assert too_wide == 0
    page.assert_quiet()


def test_it_is_printed(page):
    made = page.page.pdf(format="A4")
    assert made.startswith(b"%PDF") and len(made) > 20_000
    page.assert_quiet()


def test_hostile_names_do_nothing(chromium, tmp_path):
    deltas = ordinary(30, 2, len(HOSTILE))
    path = made_run(
        tmp_path / "run.zarr", deltas, names=list(HOSTILE), histogram=True, ratio=True
    )
    write_page(read_runs([path]), tmp_path / "report.html", title=HOSTILE[0])
    page = Page(chromium, tmp_path / "report.html")
    for place in range(len(HOSTILE)):
        page.page.select_option("#curve-signal", str(place))
        page.page.select_option("#ridge-signal-0", str(place))
    rows = page.page.locator("#heat-0 .nsewdrag")
    row = rows.bounding_box()["height"] / len(HOSTILE)
    for place in range(len(HOSTILE)):
        rows.hover(position={"x": 200, "y": row * (place + 0.5)})
        page.page.wait_for_timeout(60)
    assert not page.page.title().startswith("owned")
    assert (
        page.page.evaluate("document.querySelectorAll('.chart a, .small a, main img').length")
        == 0
    )
    ticks = page.page.locator("#heat-0 .ytick text").all_text_contents()
    assert any("<script>" in tick for tick in ticks)
    assert "activation/<b>bold</b>" in ticks
    assert any("%{cus" in tick or "{{ 7" in tick for tick in ticks)
    page.assert_quiet()


def test_two_runs_are_drawn_side_by_side(chromium, tmp_path):
    one = made_run(tmp_path / "a.zarr", ordinary(40, 2, 2), names=["loss", "only/a"])
    other = made_run(tmp_path / "b.zarr", 3 * ordinary(70, 3, 2, 1), names=["other/b", "loss"])
    runs = read_runs([one, other])
    write_page(runs, tmp_path / "both.html")
    page = Page(chromium, tmp_path / "both.html")
    lines = [t for t in page.chart("curves") if t["meta"]["part"] == "line"]
    for line, run in zip(lines, runs, strict=True):
        expected = run.overview.history("loss").mean[:, -1]
        np.testing.assert_allclose(floats(line["y"]), expected, rtol=1e-6)
    assert page.page.locator("#curve-signal option").all_text_contents() == ["loss"]
    assert len(page.chart("heat-1")[0]["z"]) == 2
    page.assert_quiet()


def test_a_run_whose_tables_have_other_bins_is_one_heat_map(chromium, tmp_path):
    tables = (LongTable(2), LongTable(1, every=10))
    path = long_run(tmp_path / "run.zarr", steps=900, tables=tables, replicas=2, window=32).path
    (run,) = read_runs([path], budget=60_000)
    assert len({len(history.bins) for history in run.overview.histories}) == 2
    write_page([run], tmp_path / "report.html")
    page = Page(chromium, tmp_path / "report.html")
    assert_equal_maps(page.chart("heat-0"), heatmap(run.overview))
