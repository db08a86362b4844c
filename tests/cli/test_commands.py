"""The command line, end to end: what it prints, where, and how it ends."""

import json
import shutil
import subprocess
import sys

import pytest
from commands import HOSTILE, assert_refused, command

import distwatch as dw
from distwatch.analysis.facts import describe, facts_of
from distwatch.cli import digits
from distwatch.cli.conventions import EXIT_CODES
from distwatch.cli.demo import DEMO_STORE
from distwatch.errors import SetupError
from distwatch.store import StoredRun
from distwatch.testing.fake import fake_run


def test_version(call):
    assert call("--version") == (0, f"distwatch {dw.__version__}\n", "")


@pytest.mark.parametrize("name", ["demo", "info"])
def test_help_has_examples(call, name):
    code, out, _ = call(name, "--help")
    assert code == 0
    assert "Examples:" in out
    assert f"distwatch {name}" in out


def test_help_says_the_exit_codes(call):
    assert EXIT_CODES[:30] in call("--help")[1]


def test_bad_usage_is_2(call):
    assert call("info")[0] == 2
    assert call("nonsense")[0] == 2
    assert call("demo", "--replicas", "0")[0] == 2


def test_info_says_what_is_in_a_run(call, tmp_path):
    run = fake_run(tmp_path / "run.zarr", steps=21, replicas=3, lost=4)
    code, out, err = call("info", run.path)
    assert (code, err) == (0, "")
    lines = " ".join(out.split())
    for part in (
        "replicas 3 (0, 1, 2)",
        "steps 21 committed, from 0 to 20",
        "lost 4 steps",
        "strategy made up, 3 x CPU",
        f"distwatch {dw.__version__}",
        "activation/dense previous 21 every(1)",
        "activation/dense_1 previous 21 every(1)",
    ):
        assert part in lines


def test_info_keeps_names_whole_where_columns_do_not_fit(call, tmp_path):
    long = "activation/encoder_block_of_the_first_stage/attention_output"
    run = fake_run(tmp_path / "run.zarr", steps=21, signals=(long, "activation/dense"))
    out = call("info", run.path, width=80)[1]
    lines = [line.strip() for line in out.splitlines()]
    shared = lines.index("reference previous; every(1); 21 steps")
    assert lines[shared + 1 : shared + 3] == [long, "activation/dense"]


def test_info_json_is_for_programs(call, tmp_path):
    unknown = dict.fromkeys(["after", "scaled", "order", "copied", "trained"])
    unknown["recomputed"] = 0
    run = fake_run(tmp_path / "run.zarr", steps=21, replicas=3, lost=4)
    code, out, _ = call("info", run.path, "--json")
    said = json.loads(out)
    assert code == 0
    on_disk = sum(f.stat().st_size for f in run.path.rglob("*") if f.is_file())
    assert said.pop("created").endswith("+00:00")
    assert said == {
        "path": str(run.path),
        "format": 1,
        "strategy": "made up, 3 x CPU",
        "phase": "train",
        "phases": ["train"],
        "workers": 1,
        "replicas": [0, 1, 2],
        "tables": [
            {
                "name": "table-00",
                "signals": [
                    {"name": "activation/dense", "reference": "previous", **unknown},
                    {"name": "activation/dense_1", "reference": "previous", **unknown},
                ],
                "statistics": [],
                "tensor": None,
                "schedule": "every(1)",
                "window": 8,
                "committed_steps": 21,
                "lost_steps": 4,
                "first_step": 0,
                "last_step": 20,
            }
        ],
        "unwatched": {},
        "committed_steps": 21,
        "lost_steps": 4,
        "thinned_steps": 0,
        "changes": [],
        "copies": [],
        "ended": "closed",
        "segments": [
            {
                "name": "worker-0000-start-0000",
                "worker": 0,
                "start": 0,
                "first_step": 0,
                "committed_steps": 21,
                "began": None,
                "command": None,
                "commit": None,
            }
        ],
        "bytes": on_disk,
        "versions": {"distwatch": dw.__version__},
    }


@pytest.mark.parametrize(("replicas", "said"), [(1, False), (3, True)])
def test_info_says_where_nothing_compared_the_weights_of_replicas(
    call, tmp_path, replicas, said
):
    run = fake_run(tmp_path / "run.zarr", replicas=replicas)
    code, out, _ = call("info", run.path)
    assert code == 0
    assert ("distwatch.desync()" in out) == said


def test_info_says_no_such_thing_where_something_did(tmp_path):
    described = describe(StoredRun(fake_run(tmp_path / "run.zarr", replicas=3).path))
    assert "not compared" in dict(facts_of(described))["copies"]
    described["copies"] = described["tables"]
    assert "compared at" in dict(facts_of(described))["copies"]
    other = {**described, "copies": [], "phase": "test"}
    assert "copies" not in dict(facts_of(other))


def test_info_says_what_was_thinned_out(call, tmp_path):
    path = fake_run(tmp_path / "run.zarr").path
    assert "thinned out" not in call("info", path)[1]
    group = path / "worker-0000-start-0000" / "table-00" / "zarr.json"
    document = json.loads(group.read_text())
    document["attributes"]["distwatch"] |= {"thinned": 300, "crc32": None}
    group.write_text(json.dumps(document))
    said = " ".join(call("info", path)[1].split())
    assert "thinned out 300 steps of the old part" in said


def test_info_says_how_the_writing_ended(call, tmp_path):
    path = fake_run(tmp_path / "run.zarr").path
    assert "written to its end" in " ".join(call("info", path)[1].split())
    group = path / "worker-0000-start-0000" / "table-00" / "zarr.json"
    document = json.loads(group.read_text())
    for ended, says in [
        (None, "still going on, or ended without being closed"),
        ("OSError: disk full", "until an error ended it: OSError: disk full"),
    ]:
        document["attributes"]["distwatch"] |= {"ended": ended, "crc32": None}
        group.write_text(json.dumps(document))
        assert f"written {says}" in " ".join(call("info", path)[1].split())


def test_verify_finds_what_is_damaged(call, tmp_path):
    path = fake_run(tmp_path / "run.zarr", steps=21).path
    code, out, _ = call("verify", path)
    assert (code, out.strip().splitlines()[-1].split(", ")[-1]) == (0, "none damaged.")
    chunk = path / "worker-0000-start-0000" / "table-00" / "rows" / "c.1.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-3])
    code, out, _ = call("verify", path)
    assert code == 1
    assert f"{chunk} is damaged" in out.replace("\n", "")
    assert "it holds rows 8 to 15 of 'rows'" in out.replace("\n", " ")
    assert "1 damaged; the others can be read." in out
    code, out, _ = call("verify", path, "--json")
    (damaged,) = json.loads(out)["damaged"]
    assert (code, damaged["array"], damaged["first"], damaged["file"]) == (
        1,
        "rows",
        8,
        str(chunk),
    )
    assert call("verify", tmp_path / "nowhere.zarr")[0] == 1
    assert "Examples" in call("verify", "--help")[1]


def test_info_names_what_is_unwatched(call, tmp_path):
    group = fake_run(tmp_path / "run.zarr").path / "worker-0000-start-0000" / "zarr.json"
    document = json.loads(group.read_text())
    ours = document["attributes"]["distwatch"]
    ours |= {"unwatched": {"embed[0]": "its output is ragged"}, "crc32": None}
    group.write_text(json.dumps(document))
    out = call("info", tmp_path / "run.zarr")[1]
    assert "embed[0]" in out
    assert "its output is ragged" in out
    unwatched = dw.open_run(tmp_path / "run.zarr").unwatched
    assert unwatched == {"embed[0]": "its output is ragged"}


def test_info_of_a_run_without_rows(call, tmp_path):
    run = fake_run(tmp_path / "begun.zarr", steps=0)
    assert "0 committed" in call("info", run.path)[1]
    shutil.rmtree(run.path / "worker-0000-start-0000")
    code, out, _ = call("info", run.path)
    assert code == 0
    assert "none has committed a row yet" in out
    said = json.loads(call("info", run.path, "--json")[1])
    assert (said["committed_steps"], said["tables"]) == (0, [])


def test_info_shows_hostile_names_as_they_are(call, tmp_path):
    run = fake_run(tmp_path / "[bold]run[/].zarr", signals=HOSTILE)
    code, out, _ = call("info", run.path)
    assert code == 0
    for name in HOSTILE[:3]:
        assert name in out
    assert "\x1b" not in out
    assert r"two lines\x1b[31m" in out
    assert "[bold]run[/].zarr" in out
    (table,) = json.loads(call("info", run.path, "--json")[1])["tables"]
    assert [signal["name"] for signal in table["signals"]] == HOSTILE


def test_info_refuses_what_is_no_run(call, tmp_path):
    assert_refused(call("info", tmp_path / "none"), "none", "no such folder")
    (tmp_path / "folder").mkdir()
    assert_refused(call("info", tmp_path / "folder"), "is no distwatch run")
    (tmp_path / "file").write_text("text")
    assert_refused(call("info", tmp_path / "file"), "is no distwatch run")


def test_info_refuses_a_newer_format(call, tmp_path):
    root = fake_run(tmp_path / "run.zarr").path / "zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["distwatch"]["format"] = 2
    root.write_text(json.dumps(document))
    assert_refused(call("info", root.parent), "format 2", "update it")


def test_refusals_escape_markup(call, tmp_path):
    assert_refused(call("info", tmp_path / "[red]a[/b]"), "[red]a[/b]")


#: What takes long to import, and no command needs that reads a run and prints text.
HEAVY = (
    "dask", "jinja2", "keras", "pandas", "plotly", "pyarrow", "tensorboard", "tensorflow",
    "xarray",
)  # fmt: skip


def test_commands_that_print_text_import_nothing_heavy(tmp_path):
    run = str(fake_run(tmp_path / "run.zarr").path)
    given = ["--help"], ["info", run], ["ls", str(tmp_path)], ["tail", run], ["check", run]
    program = (
        "import sys, contextlib, distwatch.cli\n"
        "assert 'zarr' not in sys.modules\n"
        f"for given in {given!r}:\n"
        "    sys.argv = ['distwatch', *given]\n"
        "    with contextlib.suppress(SystemExit): distwatch.cli.main()\n"
        f"    found = sorted({{*{HEAVY!r}}} & set(sys.modules))\n"
        "    assert not found, (given, found)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


def test_demo_refuses_a_run_before_it_trains(call, tmp_path):
    run = fake_run(tmp_path / "run.zarr")
    assert_refused(call("demo", "--store", run.path), "holds a run already", "--overwrite")
    assert len(dw.open_run(run.path)) == 20


@pytest.mark.parametrize("missing", ["sklearn", "plotly", "jinja2"])
def test_demo_says_what_to_install(monkeypatch, tmp_path, missing):
    monkeypatch.setattr(
        digits.importlib.util, "find_spec", lambda name: None if name == missing else True
    )
    with pytest.raises(SetupError, match=r"pip install 'distwatch\[demo\]'"):
        digits.run_demo(
            tmp_path / "r.zarr", replicas=3, epochs=1, overwrite=False, healthy=False
        )
    assert list(tmp_path.iterdir()) == []


def test_one_replica_of_the_demo_is_odd():
    pytest.importorskip("sklearn")
    shards = digits._shards(4)
    assert [len(images) for images, _ in shards] == [449] * 4
    dark = [digits.by_own_maximum(images).mean() for images, _ in shards]
    assert dark.index(min(dark)) == digits.ODD
    assert sorted(dark)[1] > 10 * min(dark)
    even = [digits.by_sixteen(images).mean() for images, _ in shards]
    assert max(even) < 1.05 * min(even)


@pytest.mark.slow
@pytest.mark.parametrize("healthy", [False, True], ids=["odd", "healthy"])
def test_demo_end_to_end(tmp_path, healthy):
    done = command("demo", *["--healthy"] * healthy, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = dw.open_run(tmp_path / DEMO_STORE)
    # 1,797 digits on 4 replicas, in batches of 16 on each, three times.
    assert len(run) == 3 * 28
    assert run.replicas == [0, 1, 2, 3]
    said = " ".join(done.stdout.split())
    wrong = said.partition("What is wrong: ")[2]
    assert wrong.startswith("nothing unusual." if healthy else "Replica 2 differs")
    assert ("That is on purpose" in said) == (not healthy)
    page = tmp_path / "distwatch-demo.html"
    assert page.as_uri() in done.stdout
    assert ("Nothing unusual." in page.read_text()) == healthy
    assert f"distwatch tail {DEMO_STORE} --once" in done.stdout


def test_demo_leaves_a_page_of_ones_own_alone(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "distwatch-demo.html"
    page.write_text("<p>my own")
    assert_refused(call("demo"), "left alone", "--store")
    assert [each.name for each in tmp_path.iterdir()] == [page.name]


@pytest.mark.parametrize(
    "arguments", [(), ("--store", "mine"), ("--store", "mine", "--overwrite")]
)
def test_demo_leaves_alone_what_is_no_run(call, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    letters = [tmp_path / name / "letter.txt" for name in (DEMO_STORE, "mine")]
    for letter in letters:
        letter.parent.mkdir()
        letter.write_text("keep me")
    assert_refused(call("demo", *arguments), "left alone", "--store")
    assert [letter.read_text() for letter in letters] == ["keep me"] * 2


def test_demo_leaves_a_file_alone(call, tmp_path):
    (tmp_path / "file").write_text("keep me")
    assert_refused(call("demo", "--store", tmp_path / "file", "--overwrite"), "left alone")
