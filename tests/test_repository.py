"""What stands around the code agrees with it."""

from pathlib import Path

import pytest
import yaml

import distwatch as dw

ROOT = Path(__file__).parents[1]
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
