"""The page in a browser: it draws, asks nobody for anything, and no name does harm."""

import os
from pathlib import Path

import numpy as np
import pytest
from chosen_runs import HOSTILE, made_run, ordinary
from long_runs import LongTable, long_run

from distwatch.analysis.figures import curves, heatmap
from distwatch.report import read_runs, write_page
from distwatch.report.browsers import browser

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
        assert self.asked == [self.url]

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
    assert page.page.evaluate("document.querySelectorAll('.heatmaplayer image').length") == 1
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
    (heat,) = page.chart("heat-0")
    column = int(np.argmax(heat["customdata"][1]))
    assert heat["x"][column] <= SPIKE <= heat["x"][column + 1]
    assert heat["z"][1][column] == heat["zmax"]


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


@pytest.mark.parametrize("series", [-1, 0, 1])
def test_the_heat_map_is_as_python_draws_it(page, written, series):
    overview = written[1]
    page.page.select_option("#heat-series", str(series))
    (here,) = page.chart("heat-0")
    there = heatmap(overview, "size", None if series < 0 else series).data[0]
    np.testing.assert_allclose(here["x"], there.x)
    np.testing.assert_allclose([floats(row) for row in here["z"]], there.z, atol=1e-5)


def test_a_row_that_is_chosen_shows_its_curves(page):
    page.page.fill("#heat-filter", "LAYER_2")
    assert len(page.chart("heat-0")[0]["z"]) == 1
    box = page.page.locator("#heat-0 .nsewdrag").bounding_box()
    page.page.mouse.move(box["x"] + 300, box["y"] + 10)
    page.page.wait_for_selector("#heat-0 .hoverlayer .hovertext")
    page.page.mouse.click(box["x"] + 300, box["y"] + 10)
    page.page.wait_for_function("document.getElementById('curve-signal').value === '2'")
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
    box = page.page.locator("#heat-0 .nsewdrag").bounding_box()
    row = box["height"] / len(HOSTILE)
    for place in range(len(HOSTILE)):
        page.page.mouse.move(box["x"] + 200, box["y"] + row * (place + 0.5))
        page.page.wait_for_timeout(60)
    assert not page.page.title().startswith("owned")
    assert page.page.evaluate("document.querySelectorAll('.chart a, main img').length") == 0
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
    (here,) = page.chart("heat-0")
    there = heatmap(run.overview).data[0]
    np.testing.assert_allclose(here["x"], there.x)
    np.testing.assert_allclose([floats(row) for row in here["z"]], there.z, atol=1e-5)
