"""The site of the documentation: built strictly, and no page of it asks the network."""

import functools
import html
import http.server
import os
import re
import subprocess
import sys
import threading

import pytest
from documents import ROOT

from distwatch.report.browsers import browser
from distwatch.signals import KINDS

pytestmark = pytest.mark.slow

#: Chromium in the sandbox of a test runner; nothing that it asks for by itself.
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
WIDTHS = (390, 1280)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.fixture(scope="module")
def address(site):
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def chromium():
    if browser() is None:
        if "CI" in os.environ:
            pytest.fail("there is no Chromium on the PATH, and CI has to look at the site")
        pytest.skip("there is no Chromium on the PATH")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=browser(), args=FLAGS)
        yield opened
        opened.close()


def names_of(site):
    return sorted(str(path.relative_to(site)) for path in site.rglob("*.html"))


def test_the_format_and_docstrings_are_in_the_site(site):
    page = (site / "how" / "format.html").read_text()
    assert "The store of a run, format 1" in page
    recording = (site / "api" / "training.html").read_text()
    assert "at_max_bytes" in recording
    assert "doctest" not in recording
    assert "&gt;&gt;&gt;" not in recording


def test_selectors_show_what_they_take_and_what_by_name_only(site):
    page = html.unescape(re.sub("<[^>]+>", "", (site / "api" / "signals.html").read_text()))
    page = re.sub(r"\s+", " ", page)
    assert "weights(patterns=None, *, reference='none', statistics=(), every=None)" in page
    assert 'tensors( patterns=None, *, reference="previous", every, reduce=None,' in page
    assert "probe(x, *, reference='none'" in page
    for name in KINDS:
        assert f"{name} = " not in page


@pytest.mark.parametrize("width", WIDTHS)
def test_pages_ask_only_their_own_site_and_fit_their_window(site, address, chromium, width):
    page = chromium.new_context(viewport={"width": width, "height": 900}).new_page()
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: said.append(str(error)))
    names = names_of(site)
    assert len(names) > 20
    for name in names:
        page.goto(f"{address}/{name}", wait_until="networkidle")
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{name} is {wide} pixels wide"
    assert said == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


def test_search_finds_a_public_name(address, chromium):
    page = chromium.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.goto(f"{address}/index.html", wait_until="networkidle")
    page.keyboard.press("/")
    page.keyboard.type("multiworker_fit")
    page.wait_for_selector(".md-search-result__item, [class*=search] a[href*=multiworker]")
