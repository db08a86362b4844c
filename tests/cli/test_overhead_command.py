"""``distwatch overhead``: what it starts, how it puts results together, and what it refuses."""

import json
import sys
from pathlib import Path

import pytest
from commands import assert_refused, command

import distwatch as dw
from distwatch.errors import ConfigError, UnsupportedTrainingError
from distwatch.training.scripts.bootstrap.sitecustomize import VARIABLE
from distwatch.training.scripts.launching import Launch
from distwatch.training.scripts.measured_script import Measurement, costs_of, measure

SCRIPTS = Path(__file__).parent / "scripts"

#: What the starts of a made-up script find: looks cost 20 %, and 2 % is added without any.
UNWATCHED = [{"first_step": 1.0, "memory": 500}, {"first_step": 1.5, "memory": 510}]
WATCHED = {
    "first_step": 2.0,
    "memory": 600,
    "step": 0.010,
    "added": [0.22, 0.21, 0.21, 0.20, 0.22],
    "idle": [0.01] * 5,
    "host": 0.0001,
    "steps": 400,
    "replicas": 2,
    "bytes_per_step": 250.0,
}
UNITS = [
    {"signals": ["loss"], "every": 1, "cost": 0.02, "low": 0.01, "high": 0.03},
    {
        "signals": ["gradient/a", "gradient/b"],
        "every": 1,
        "cost": 0.18,
        "low": 0.1,
        "high": 0.2,
    },
    {"signals": ["data/input"], "every": 10, "cost": -0.01, "low": -0.1, "high": 0.02},
]


def test_what_the_starts_find_is_put_together():
    costs = costs_of(UNWATCHED, [WATCHED, WATCHED], UNITS, 0.05)
    assert costs.step == 0.010
    assert costs.ratio.value == pytest.approx(0.21 + 0.01)
    assert costs.added.low <= costs.added.value <= costs.added.high
    assert costs.fixed.value == pytest.approx(0.02)
    assert costs.first_steps == ([1.0, 1.5], [2.0, 2.0])
    assert costs.bytes_per_hour == pytest.approx(250 * 3600 / 0.0122)
    assert (costs.steps, costs.replicas) == (800, 2)
    assert [each.signals[0] for each in costs.signals] == ["gradient/a", "loss", "data/input"]
    # The looks cost the total but what is fixed, whatever they cost one by one.
    assert sum(max(0, each.cost.value) for each in costs.signals) == pytest.approx(0.20)
    assert not costs.fits
    assert costs.can_fit
    saved = [max(0, each.cost.value) * each.every / each.fitting for each in costs.signals]
    assert sum(saved) + costs.fixed.value <= 0.05
    assert costs.signals[2].fitting == 10  # what costs nothing is left as it is


def test_what_is_within_the_budget_is_left_as_it_is():
    costs = costs_of(UNWATCHED, [WATCHED], UNITS, 0.3)
    assert costs.fits
    assert [each.fitting for each in costs.signals] == [1, 1, 10]


def test_what_no_schedule_saves_is_not_promised():
    dear = {**WATCHED, "idle": [0.1] * 5}
    costs = costs_of(UNWATCHED, [dear], UNITS, 0.05)
    assert not costs.can_fit
    assert not costs.fits


def started(tmp_path, code, environment=None):
    """Measure a program that stands in for a script's process."""
    settings = {"arguments": {}}
    given = {VARIABLE: json.dumps(settings), **(environment or {})}
    launch = Launch([sys.executable, "-I", "-c", code], given)
    return measure(launch, Measurement(100, 1, 0.05), name="train.py")


def test_a_script_that_fails_is_shown_with_its_errors(tmp_path):
    with pytest.raises(ConfigError, match=r"exit code 3 before a fit.*\n  no data there"):
        started(tmp_path, "import sys; print('no data there', file=sys.stderr); sys.exit(3)")


def test_a_script_that_ends_without_a_fit_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"exit code 0 before a fit was measured"):
        started(tmp_path, "")


def test_what_a_start_refuses_is_said(tmp_path):
    code = (
        f"import json, os; told = json.loads(os.environ[{VARIABLE!r}])['measure']['told']\n"
        "open(told, 'a').write(json.dumps({'refused': 'it is too short'}) + '\\n')"
    )
    with pytest.raises(UnsupportedTrainingError, match=r"train.py .* it is too short\.$"):
        started(tmp_path, code)


def test_several_workers_are_refused(tmp_path):
    cluster = {"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 0}}
    with pytest.raises(ConfigError, match="2 workers"):
        started(tmp_path, "", {"TF_CONFIG": json.dumps(cluster)})


def test_what_is_refused_before_a_start(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(call("overhead", "nowhere.py"), "nowhere.py", "there is no such script")
    assert call("overhead")[0] == 2
    assert call("overhead", "--steps", "5", "x.py")[0] == 2


@pytest.mark.slow
def test_a_script_is_measured_and_nothing_is_left(tmp_path):
    script = SCRIPTS / "trains.py"
    options = ["overhead", "--json", "--steps", "400", "--starts", "1"]
    ended = command(*options, script, "1000", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert list(tmp_path.iterdir()) == []  # no run, and not what follows the fit
    assert ended.stderr.splitlines()[0] == "distwatch: start 1 of 3: the first steps, unwatched"
    assert 0 < found["step_seconds"] < 1
    assert found["ratio_added"]["low"] <= found["ratio_added"]["high"]
    unwatched, watched = found["first_step_seconds"].values()
    assert min(*unwatched, *watched) > 0
    assert found["bytes_per_step"] > 0
    assert found["steps"] <= 400
    names = {name for each in found["signals"] for name in each["signals"]}
    assert not names or "loss" in names


@pytest.mark.slow
def test_runs_are_kept_if_asked_for(tmp_path):
    script = SCRIPTS / "trains.py"
    options = ["overhead", "--keep", "kept", "--steps", "300", "--starts", "1"]
    ended = command(*options, script, "1000", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "What watching costs the first fit of" in ended.stdout
    (run,) = (tmp_path / "kept").iterdir()
    kept = dw.open_run(run)
    assert kept.ended == "closed"
    # After the first ten steps, stretches take turns: in one the watch looks, in one it counts
    # steps and looks at none, and of the steps of the third it knows nothing.
    looked = len(kept) - 10
    assert 60 <= looked <= 290 / 3 + 16
    assert looked < int(kept.to_xarray().step.max()) + 1 - 10 <= 2.5 * looked


@pytest.mark.slow
def test_fits_that_cannot_be_measured(tmp_path):
    options = ["overhead", "--starts", "1"]
    ended = command(*options, SCRIPTS / "trains.py", "1", cwd=tmp_path)
    assert ended.returncode == 1
    assert "too few to measure" in ended.stderr
    assert not (tmp_path / "after").exists()
    (tmp_path / "none.py").write_text("import keras\n")
    ended = command(*options, "none.py", cwd=tmp_path)
    assert ended.returncode == 1
    assert "the script called no fit of Keras" in ended.stderr
    (tmp_path / "wrong.yaml").write_text("signals: [nosuch]\n")
    options += ["--config", "wrong.yaml"]
    ended = command(*options, SCRIPTS / "trains.py", "100", cwd=tmp_path)
    assert ended.returncode == 1
    assert "is not watched" in ended.stderr
    assert "nosuch" in ended.stderr
