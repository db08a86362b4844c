"""``distwatch doctor``, end to end."""

import json

import pytest
from commands import command

from distwatch.cli.doctor import checks as doctor_checks
from distwatch.cli.doctor import targets
from distwatch.cli.doctor.checks import checks, findings_of
from distwatch.cli.doctor.findings import note, ok, problem, warning


@pytest.fixture
def found(monkeypatch):
    """Have the doctor find these."""

    def find(*findings):
        made_up = {"made up": lambda: iter(findings)}
        monkeypatch.setattr(doctor_checks, "checks", lambda *_, **__: made_up)

    return find


@pytest.mark.slow
def test_a_machine_that_runs_this_suite_is_well(tmp_path):
    ended = command("doctor", "--store", tmp_path, "--json", cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    said = json.loads(ended.stdout)
    assert said["problems"] == 0
    found = {each["name"]: each for each in said["findings"]}
    assert {each["topic"] for each in said["findings"]} == {"software", "training", "target"}
    for name in ("Keras's backend", "TensorFlow", "devices", "training on CPUs", "place"):
        assert found[name]["verdict"] == "ok"
    trained = found["training on CPUs"]
    assert "MirroredStrategy over 2 x CPU: 12 of 12 rows kept, 0 wrong" in trained["text"]
    assert trained["figures"]["rows"] == 12
    assert found["writing"]["figures"]["blocks_per_second"] > 0
    assert list(tmp_path.iterdir()) == []


def test_quick_trains_nothing(tmp_path):
    assert list(checks(str(tmp_path), quick=True)) == ["software", "target"]


def test_lines_say_what_to_do(call, found):
    found(
        ok("fine", "as it should be"),
        note("missing", "not there", "pip install it"),
        warning("slow", "3 MB/s", "write elsewhere"),
    )
    code, out, err = call("doctor")
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines == [
        "made up",
        "ok fine as it should be",
        "note missing not there",
        "pip install it",
        "warning slow 3 MB/s",
        "write elsewhere",
        "No problems; warnings: 1.",
    ]


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_problem_is_1(call, found, options):
    found(ok("fine", "good"), problem("bad", "broken", "fix it"))
    code, out, err = call("doctor", *options)
    assert (code, err) == (1, "")
    assert "fix it" in out
    if options:
        said = json.loads(out)
        assert (said["problems"], said["warnings"]) == (1, 0)
        assert said["findings"][1] == {
            "topic": "made up",
            "name": "bad",
            "verdict": "problem",
            "text": "broken",
            "remedy": "fix it",
            "figures": {},
        }
    else:
        assert out.endswith("Problems: 1, warnings: 0.\n")


def test_texts_are_shown_as_they_are(call, found):
    found(problem("[red]x[/red]", "\x1b[31m[/nonsense]", "two\nlines"))
    code, out, _ = call("doctor")
    assert code == 1
    assert "[red]x[/red]" in out
    assert "\x1b" not in out
    assert "two lines" in out


def test_a_check_that_fails_hides_neither_itself_nor_what_it_found():
    def look():
        yield ok("first", "seen")
        raise RuntimeError("a bug")

    first, second = findings_of("odd", look)
    assert (first.name, first.verdict) == ("first", "ok")
    assert (second.name, second.verdict) == ("odd", "problem")
    assert "RuntimeError: a bug" in second.text


def test_a_place_that_takes_no_runs(call, monkeypatch):
    monkeypatch.setattr(targets, "SECONDS", 0.0)
    code, out, err = call("doctor", "--quick", "--store", "nonsense://x/y")
    assert (code, err) == (1, "")
    assert "nonsense" in out


@pytest.mark.parametrize("timeout", ["0", "soon"])
def test_bad_usage(call, timeout):
    code, out, err = call("doctor", "--timeout", timeout)
    assert (code, out) == (2, "")
    assert "timeout" in err
