"""What the documents say is true: links lead somewhere, commands exist, blocks are of a kind.

The programs in them are run by test_document_programs.py.
"""

import ast
import re
import shlex
import tomllib
from collections import Counter
from urllib.parse import urlparse

import pytest
from documents import DOCUMENTS, ROOT, blocks, commands, continued, headings
from test_layering import FLOORS, TRAINING_FLOORS

import distwatch as dw
from distwatch.cli import COMMANDS
from distwatch.findings import RULES

#: Blocks that show output, or a file of another program: there is nothing in them to run.
SHOWN = {"text", "json", "toml"}
#: Why blocks are not run, and how many there are of each. A new one is counted here.
NOT_RUN = {
    "installs packages": 2,
    "makes an environment": 2,
    "needs a bucket": 1,
    "several machines": 1,
    "needs a training that goes on": 1,
    "measures for minutes": 1,
}
#: Sites that documents may name. There is no site of this project yet.
SITES = {"keepachangelog.com", "semver.org"}
LINK = re.compile(r"(?<!`)\]\(([^)\s]+)\)")

documents = pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT))
)


def links(document):
    return LINK.findall(document.read_text())


def test_the_documents_are_found():
    names = {str(path.relative_to(ROOT)) for path in DOCUMENTS}
    assert {"README.md", "docs/index.md", "distwatch/store/FORMAT.md"} < names
    assert sum(len(links(path)) for path in DOCUMENTS) > 40
    assert sum(len(blocks(path)) for path in DOCUMENTS) > 50


@documents
def test_links_lead_somewhere(document):
    for link in links(document):
        target, _, anchor = link.partition("#")
        if "://" in target:
            assert urlparse(target).hostname in SITES
            continue
        path = (document.parent / target).resolve() if target else document
        assert path.exists(), f"{link}: no such file"
        if document.is_relative_to(ROOT / "docs"):
            assert path.is_relative_to(ROOT / "docs"), f"{link} leads out of the site"
        if anchor:
            assert anchor in headings(path), f"{link}: no such heading"


@documents
def test_blocks_are_of_a_kind_that_is_run_or_shown(document):
    for block in blocks(document):
        assert block.language in {"python", "sh", "yaml", *SHOWN}, block
        if block.language == "python":
            ast.parse(block.text)
        if block.language == "toml":
            tomllib.loads(block.text)
    if base := continued(document):
        assert base in DOCUMENTS
        assert continued(base) is None


def test_blocks_that_are_not_run_are_counted():
    reasons = [block.not_run for path in DOCUMENTS for block in blocks(path) if block.not_run]
    lines = [line for path in DOCUMENTS for line in path.read_text().splitlines()]
    marks = sum(line.startswith("<!-- not run") for line in lines)
    assert marks == len(reasons), "a mark does not stand right above a block"
    assert Counter(reasons) == NOT_RUN


@documents
def test_every_command_is_one_that_there_is(document):
    for line in commands(document):
        program, *arguments = shlex.split(line)
        if program == "make":
            targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert {each for each in arguments if "=" not in each} <= set(targets)
        elif program in ("python", "pytest"):
            files = [each for each in arguments if each.startswith(("examples/", "tests/"))]
            assert all((ROOT / each).exists() for each in files), line
        elif program == "distwatch":
            assert arguments[0] in COMMANDS, line
        else:
            assert program in ("pip", "git", "cd", "cp", "."), f"nothing tests {line}"


@documents
def test_extras_that_are_named_are_there(document):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r"(?:distwatch|\.)\[([\w,]+)\]", document.read_text())
    assert {extra for each in named for extra in each.split(",")} <= set(
        project["optional-dependencies"]
    )


@documents
def test_paths_of_the_tree_that_are_named_are_there(document):
    """Such as `tests/benchmarks/step_time.py`, which the costs come from."""
    named = r"`((?:distwatch|tests|examples|configs|docs|\.github)/[\w./-]+)`"
    for path in re.findall(named, document.read_text()):
        assert (ROOT / path).exists(), path


def test_every_public_name_is_in_the_reference():
    reference = "".join(path.read_text() for path in (ROOT / "docs" / "api").glob("*.md"))
    listed = re.findall(r"^::: distwatch\.(\w+)$", reference, re.MULTILINE)
    assert set(dw.__all__) == set(listed) - {"actions", "errors"}


def test_every_command_is_in_the_reference():
    reference = (ROOT / "docs" / "api" / "command-line.md").read_text()
    for name in COMMANDS:
        assert f"`distwatch {name}" in reference


def test_the_map_is_that_of_the_imports():
    """Every room, in an order in which imports point up the page; no file that is not there."""
    text = (ROOT / "docs" / "how" / "architecture.md").read_text()
    outer, inner = text.partition("## The map")[2].split("Inside `training`:")
    named = rooms_in(outer)
    level = {room: i for i, floor in enumerate(FLOORS) for room in floor}
    assert sorted(named) == sorted(level)
    assert [level[room] for room in named] == sorted(level.values())
    assert set(rooms_in(inner.partition("## ")[0])) <= set().union(*TRAINING_FLOORS)


def rooms_in(part):
    """The names in the first column of a table, in order."""
    rows = re.findall(r"^\| (`[^|]+) \|", part, re.MULTILINE)
    return [name for row in rows for name in re.findall(r"`(\w+)`", row)]


def test_rules_that_stand_for_those_of_another_tool_are_there():
    page = ROOT / "docs" / "coming-from" / "sagemaker-debugger.md"
    table = (
        page.read_text().partition("| SageMaker Debugger | distwatch |")[2].partition("```")[0]
    )
    named = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line)}
    assert len(named) >= 8
    assert named <= {rule.name for rule in RULES}


def test_configuration_keys_are_those_of_a_watch():
    from distwatch.config import WatchConfig

    guide = (ROOT / "docs" / "guides" / "configuration.md").read_text()
    table = guide.partition("## Keys")[2]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(WatchConfig.model_fields)


def test_the_readme_s_first_screen_says_what_is_not_verified():
    first = "\n".join((ROOT / "README.md").read_text().splitlines()[:40])
    assert re.search(r"GPUs?: not verified|[Nn]ot verified on GPUs", first)
    assert re.findall(r"^pip install (.+?)(?: +#.*)?$", first, re.MULTILINE)[0] == (
        '"distwatch[tensorflow]"'
    )
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130
