"""``distwatch config``: what it writes is right, and what is wrong has a place."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from commands import assert_refused

from distwatch.config import templates

WRONG = """\
store: run.zarr
windw: 3
signals:
  - dense
  - {gradients: null, refrence: none}
  - {weights: null, reference: batch_mean}
window: 0
store: other.zarr
"""


@pytest.fixture(autouse=True)
def somewhere_empty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("use", templates())
def test_what_init_writes_is_right(call, use):
    code, out, err = call("config", "init", "--use", use)
    assert (code, err) == (0, "")
    assert "distwatch run --config watch.yaml" in out
    code, out, err = call("config", "check")
    assert (code, err) == (0, "")
    one, many = Path("run.zarr").absolute(), Path("runs").absolute()
    where = one if use == "production" else f"a new run in {many}/"
    (line,) = [line for line in out.splitlines() if line.startswith("Writes ")]
    assert line.startswith(f"Writes {where}")
    # A folder of runs has new folders anyway.
    assert ("Under 'distwatch run' that is a folder" in out) == (use == "production")
    assert [path.name for path in Path().iterdir()] == ["watch.yaml"]


def test_init_writes_the_schema_beside_the_file(call):
    assert call("config", "init", "sub.yaml", "--schema")[0] == 0
    first = Path("sub.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=watch.schema.json"
    written = json.loads(Path("watch.schema.json").read_text())
    jsonschema.validate(yaml.safe_load(Path("sub.yaml").read_text()), written)
    assert written == json.loads(call("config", "schema")[1])
    assert call("config", "check", "sub.yaml")[0] == 0


def test_init_replaces_nothing_unasked(call):
    Path("watch.yaml").write_text("mine")
    assert_refused(call("config", "init"), "watch.yaml would be replaced", "--force")
    assert Path("watch.yaml").read_text() == "mine"
    Path("watch.schema.json").write_text("mine")
    assert_refused(call("config", "init", "new.yaml", "--schema"), "watch.schema.json would")
    assert not Path("new.yaml").exists()
    assert call("config", "init", "--force")[0] == 0
    assert "store: runs/" in Path("watch.yaml").read_text()


def test_init_refuses_what_it_cannot_do(call):
    assert_refused(call("config", "init", "--use", "prodction"), "nearest: 'production'")
    assert_refused(call("config", "init", "--use", "sampled"), "is called every_10th_step now")
    assert_refused(call("config", "init", "no/folder/watch.yaml"), "cannot be written")


def test_check_says_what_is_watched(call):
    Path("watch.yaml").write_text(
        "store: run.zarr\nmax_bytes: 2GB\nphases: [train, test]\nschedule: {every: 10}\n"
        "signals: ['dense_*', {weights: '*/kernel', every: 3, statistics: [histogram]}]\n"
    )
    code, out, _ = call("config", "check")
    assert code == 0
    assert out.splitlines() == [
        "Watches activations of dense_*, against previous, every(10).",
        "Watches weights of */kernel, their values, every(3), with histogram.",
        f"Writes {Path('run.zarr').absolute()}, of 2.0 GB at most; phases: train, test.",
        "Under 'distwatch run' that is a folder, in which each fit writes a run: "
        "fit-000.zarr, fit-001.zarr, ...",
    ]
    said = json.loads(call("config", "check", "--json")[1])
    assert said == {"right": True, "mistakes": [], "says": out.splitlines()}


def test_check_places_every_mistake(call):
    Path("watch.yaml").write_text(WRONG)
    code, out, err = call("config", "check")
    assert (code, out) == (1, "")
    assert [line.split(": ")[0] for line in err.splitlines()] == [
        f"watch.yaml:{number}" for number in (2, 5, 6, 7, 8)
    ]
    for part in ("nearest: 'window'", "nearest: 'reference'", "no batch dim", "second time"):
        assert part in err
    code, out, _ = call("config", "check", "--json")
    said = json.loads(out)
    assert (code, said["right"], said["says"]) == (1, False, [])
    assert [mistake["line"] for mistake in said["mistakes"]] == [2, 5, 6, 7, 8]


def test_check_refuses_what_is_no_yaml(call):
    assert_refused(call("config", "check", "nowhere.yaml"), "nowhere.yaml' cannot be read")
    Path("watch.yaml").write_text("- a list")
    code, _, err = call("config", "check")
    assert (code, err) == (
        1,
        "watch.yaml:1: expected keys such as 'store: run.zarr', found none.\n",
    )


def test_check_places_what_is_no_yaml(call):
    Path("watch.yaml").write_text("store: run.zarr\nsignals: [dense\nwindow: 3\n")
    code, out, err = call("config", "check")
    assert (code, out) == (1, "")
    assert err.startswith("watch.yaml:3: this is not YAML: expected ',' or ']'")
    said = json.loads(call("config", "check", "--json")[1])
    assert [mistake["line"] for mistake in said["mistakes"]] == [3]


def test_check_shows_hostile_text_as_it_is(call):
    Path("watch.yaml").write_text('store: run.zarr\n"[red]\\e[31m": 1\n')
    code, _, err = call("config", "check")
    assert code == 1
    assert "[red]" in err
    assert "\x1b" not in err
