"""What stands around the code agrees with it."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

import distwatch as dw

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == dw.__version__
    # What the Citation File Format 1.2.0 asks for.
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["license"] in (ROOT / "pyproject.toml").read_text()


def test_there_are_templates_for_issues():
    assert {path.name for path in TEMPLATES} == {"bug.yml", "config.yml", "feature.yml"}


@pytest.mark.parametrize(
    "path",
    [each for each in TEMPLATES if each.name != "config.yml"],
    ids=lambda each: each.name,
)
def test_templates_are_forms_that_can_be_filled_in(path):
    form = yaml.safe_load(path.read_text())
    assert {"name", "description", "body"} <= set(form)
    ids = [part["id"] for part in form["body"]]
    assert len(set(ids)) == len(ids) > 0
    assert any(part.get("validations", {}).get("required") for part in form["body"])
    for part in form["body"]:
        assert part["type"] in ("textarea", "input", "dropdown", "checkboxes")
        assert part["attributes"]["label"]


def test_the_change_log_speaks_of_what_is_there():
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert f"to be {dw.__version__}" in changes or f"[{dw.__version__}]" in changes


def steps_of(workflow):
    """Each step of each job of a workflow."""
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_there_are_workflows():
    assert {path.name for path in WORKFLOWS} >= {"tests.yml", "nightly.yml", "publish.yml"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda each: each.name)
def test_a_workflow_is_right(path):
    workflow = yaml.safe_load(path.read_text())
    # YAML 1.1 reads a bare `on` as true.
    assert {"name", True, "permissions", "jobs"} <= set(workflow)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job["runs-on"]
    for step in steps_of(workflow):
        assert ("run" in step) != ("uses" in step), step
        # A version is named, and Dependabot keeps it current.
        assert re.fullmatch(r"[\w.-]+(/[\w.-]+)+@v\d+", step.get("uses", "a/b@v1")), step


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda each: each.name)
def test_what_a_workflow_calls_is_in_the_makefile(path):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    runs = [step.get("run", "") for step in steps_of(yaml.safe_load(path.read_text()))]
    called = set(re.findall(r"\bmake ([a-z][\w-]*)", "\n".join(runs)))
    assert called
    assert called <= targets


def test_every_python_that_is_supported_is_tested():
    tests = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    matrix = tests["jobs"]["tests"]["strategy"]["matrix"]
    named = [
        each.rpartition(" ")[2] for each in PROJECT["classifiers"] if "Python :: 3." in each
    ]
    assert matrix["python"] == named


@pytest.mark.parametrize("name", [".github/dependabot.yml", ".pre-commit-config.yaml"])
def test_what_tools_read_is_yaml(name):
    assert len(yaml.safe_load((ROOT / name).read_text())) > 0


def test_what_pre_commit_runs_is_what_make_lint_runs():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    entries = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    assert {each.split()[0] for each in entries} == {"ruff", "mypy"}


def extra(name):
    return [Requirement(text) for text in PROJECT["optional-dependencies"][name]]


def test_reading_needs_no_tensorflow_and_what_trains_brings_it():
    needed = {Requirement(text).name for text in PROJECT["dependencies"]}
    assert not needed & {"tensorflow", "keras"}
    assert {each.name for each in extra("tensorflow")} == {"tensorflow", "keras"}
    for name in ("demo", "all"):
        assert "tensorflow" in set().union(*(each.extras for each in extra(name)))
    for name, inner in (("test", "all"), ("dev", "test")):
        assert inner in set().union(*(each.extras for each in extra(name)))


def test_the_oldest_versions_are_the_lower_bounds():
    """`make oldest` was run after a bound was moved; `make test-oldest` installs its pins."""
    lines = (ROOT / ".github" / "oldest.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    wanted = [Requirement(text) for text in PROJECT["dependencies"]]
    wanted += [
        each for name in ("tensorflow", "report", "parquet", "dask") for each in extra(name)
    ]
    assert len(wanted) > 12
    for each in wanted:
        if each.name == "pyyaml":  # A newer one is wanted by what tests install besides.
            continue
        (bound,) = (it.version for it in each.specifier if it.operator == ">=")
        pinned = Version(pins[each.name])
        assert each.specifier.contains(pinned), each
        # "3.8" is fulfilled first by 3.8.0, or by 3.8.2 where that is the first there was.
        assert pinned.release[: len(Version(bound).release)] == Version(bound).release, each
