"""Rules of one's own, on the command line."""

import json

import pytest
from commands import assert_refused

from distwatch.testing.fake import fake_run

RULES = '''
"""Two rules."""
from __future__ import annotations

import dataclasses

import numpy as np

from distwatch.findings import WARNING, Finding


@dataclasses.dataclass
class Limit:
    steps: int = 10


def many_steps(run):
    """More than ten steps."""
    for table in run.tables:
        if table.steps > Limit().steps:
            text = f"{table.steps} steps are a lot."
            evidence = {"steps": np.float32(table.steps)}
            step = np.int64(table.steps - 1)
            yield Finding(
                "many", WARNING, text, step=step, advice="Train less.", evidence=evidence
            )


def Spike(run):
    """Has the name of another one."""
    return []
'''


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(RULES)
    fake_run("run.zarr", steps=12, replicas=1)

    def write(text):
        (tmp_path / "rules.yaml").write_text(text)
        return "rules.yaml"

    return write


@pytest.mark.parametrize(
    "text",
    [
        "rules: 'mine.py:many_steps'",
        "rules: ['mine.py:many_steps', {rule: 'mine.py:many_steps', do: stop}]",
        "rules: [{rule: ['mine.py:many_steps'], do: stop}]",
        "{store: a.zarr, rules: [{rule: NonFinite, do: stop}, 'mine.py:many_steps']}",
    ],
)
def test_check_asks_the_rules_of_a_file_too(files, call, text):
    code, out, _ = call("check", "run.zarr", "--rules", files(text), "--json")
    (found,) = [each for each in json.loads(out)["findings"] if each["rule"] == "many_steps"]
    assert code == 1 and found["severity"] == "warning"
    assert (found["kind"], found["advice"], found["evidence"]) == (
        "many", "Train less.", {"steps": 12},
    )  # fmt: skip
    code, out, _ = call("check", "run.zarr", "--rules", "rules.yaml", "--rule", "many_steps")
    assert out == "many_steps, likely: 12 steps are a lot.\n"
    assert "many_steps" not in call("check", "run.zarr", "--fail-on", "never")[1]


def test_rules_lists_them(files, call):
    file = files("rules: 'mine.py:many_steps'")
    _, out, _ = call("rules", "--rules", file, "--json")
    listed = {each["rule"]: each for each in json.loads(out)["rules"]}
    assert listed["many_steps"]["says"] == "More than ten steps."
    assert listed["many_steps"]["asked"] == listed["NonFinite"]["asked"] == "at once"
    assert listed["NotLearning"]["asked"] == "at the end"
    assert "More than ten steps." in call("rules", "--rules", file, width=200)[1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("store: a.zarr", "it has no 'rules"),
        ("{rule: NonFinite, rules: []}", "unknown key 'rule'; nearest: 'rules'"),
        ("rules: 'mine.py:none_such'", "none_such' cannot be imported"),
        ("rules: 'mine.py:WARNING'", "is no function"),
        ("rules: 'none.py:a'", "cannot be imported"),
        ("rules: 'no_such_module:a'", "cannot be imported"),
        ("rules: 'mine.py:Spike'", "there are two rules 'Spike'"),
        ("rules: many_steps", "no rule 'many_steps'"),
        ("rules: [{rule: NonFinite}]", "nothing is done on NonFinite"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(files, call, text, said):
    assert_refused(call("check", "run.zarr", "--rules", files(text)), said)
