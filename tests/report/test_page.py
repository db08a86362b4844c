"""A report is one file that is whole, small, and holds texts as texts."""

import base64
import dataclasses
import importlib.util
import json
import math
import re
import subprocess
import sys
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
import pytest
from chosen_runs import HOSTILE, made_run, ordinary
from long_runs import LongTable, long_run
from made_up import made_up

import distwatch as dw
from distwatch.analysis.facts import describe, facts_of
from distwatch.errors import NotWritableError, RunExistsError, SetupError
from distwatch.findings import NOTE, RULES, WARNING, Finding
from distwatch.records import Card, Epoch, Layer, Origin, Provenance
from distwatch.report import page as page_module
from distwatch.report import read_runs, write_page
from distwatch.report.cards import cards
from distwatch.report.contents import as_script, contents, drawn_replicas, packed
from distwatch.report.diagnosis import diagnosis, link_to, looked_for
from distwatch.report.epochs import epoch_charts
from distwatch.report.images import file_name
from distwatch.report.page import SCRIPTS, page
from distwatch.report.places import page_beside
from distwatch.store import EpochLine, StoredRun, Times, epochs_name
from distwatch.testing.fake import fake_run, write_fake


def with_epochs(path, *metrics, rates=None):
    """A run whose epochs came to these metrics."""
    made = made_up(steps=range(6))
    write_fake(path, (made.info, made.blocks))
    lines = [
        EpochLine(Epoch(i, i + 1, each, rates[i] if rates else None)).line()
        for i, each in enumerate(metrics)
    ]
    (path / epochs_name(0, 0)).write_bytes(b"".join(lines))
    return read_runs([path])[0]


class Elements(HTMLParser):
    """The elements of a page, and the text of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.found, self.scripts, self.text = [], [], []
        self._in = ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, text):
        if self._in == "script":
            self.scripts[-1] += text
        elif self._in != "style":
            self.text.append(text)


def numbers(text):
    return np.frombuffer(base64.b64decode(text), "<f4")


@pytest.fixture(scope="module")
def fake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    return fake_run(folder / "run.zarr", steps=45, replicas=3, lost=2)


@pytest.fixture(scope="module")
def made(fake):
    return page(read_runs([fake.path]))


def test_what_stands_out_is_said_in_words(fake, made):
    text = " ".join(Elements(made).text)
    # How large the run is is said in other words.
    for line in dw.open_run(fake.path).summary().splitlines()[1:]:
        assert line in text
    for fact in ("made up, 3 x CPU", "45 committed, from 0 to 44", "0, 1, 2"):
        assert fact in text


def test_findings_open_their_charts(made):
    """Their links name a signal that the finding names, and the statistic that shows it."""
    names = [
        signal["name"] for signal in json.loads(Elements(made).scripts[0])["runs"][0]["signals"]
    ]
    links = re.findall(r'<a href="#([^"]+)">([^<]+)</a>', made)
    assert len(links) >= 2
    for fragment, text in links:
        asked = parse_qs(fragment.replace("&amp;", "&"))
        assert names[int(asked["signal"][0])] in text
        assert asked["run"] == ["0"]
    assert any("step" in parse_qs(fragment.replace("&amp;", "&")) for fragment, _ in links)


def test_the_diagnosis_comes_first_and_is_said_once(fake, made):
    text = " ".join(Elements(made).text)
    found = {each.kind: each.text for each in dw.open_run(fake.path).findings()}
    lost = found["lost"]
    assert text.count(lost) == 1
    # How large the run is is what was looked at.
    assert found["extent"] not in text
    assert text.index("Diagnosis") < text.index(lost) < text.index("One signal")
    assert "Nothing unusual" not in text


def test_nothing_unusual_says_what_was_looked_at(tmp_path):
    path = made_run(
        tmp_path / "run.zarr",
        ordinary(30, 2, 4) - 2.0,
        names=["loss", "activation/a", "activation/b", "log/rate"],
    )
    (run,) = read_runs([path])
    said = diagnosis(replace(run, findings=()), 0, ())
    assert (said.warnings, said.all_clear) == ((), "Nothing unusual.")
    assert said.looked_at == (
        "Looked at: 30 steps on 2 replicas, of the loss, 2 activations and the logged number. "
        "Not watched: gradients, updates and weights."
    )
    assert [rule.says for rule in RULES] == looked_for()


def test_a_link_names_what_shows_the_finding(tmp_path):
    path = made_run(tmp_path / "run.zarr", ordinary(30, 2, 2))
    (run,) = read_runs([path])
    found = Finding("replicas_apart", WARNING, "", "activation/layer_1", np.int64(7), 1)
    drawn = ["activation/layer_1"]
    named = link_to(found, run, 2, drawn)
    assert named == "#run=2&signal=1&statistic=mean&step=7&replica=1"
    # There are no units here, so no statistic of them.
    of_units = replace(found, kind="dead", step=None)
    assert link_to(of_units, run, 0, drawn) == "#run=0&signal=1&replica=1"
    assert link_to(replace(found, signal=None), run, 0, drawn) == ""
    assert link_to(replace(found, signal="activation/elsewhere"), run, 0, drawn) == ""
    assert link_to(found, run, 2, ()) == "", "other runs do not have it, so it is not drawn"


@pytest.mark.parametrize(("warned", "first"), [("activation/b", 2), (None, 1)])
def test_what_is_warned_of_is_shown_first_or_else_the_loss(tmp_path, warned, first):
    names = ["activation/a", "loss", "activation/b"]
    (run,) = read_runs([made_run(tmp_path / "run.zarr", ordinary(30, 2, 3), names=names)])
    note = Finding("largest_change", NOTE, "", "activation/a")
    found = (note, Finding("spike", WARNING, "", warned)) if warned else (note,)
    assert contents([replace(run, findings=found)])["first"] == f"#run=0&signal={first}"


def test_epochs_begin_where_the_run_says(fake):
    epochs = contents(read_runs([fake.path]))["runs"][0]["epochs"]
    assert epochs == [[0, 10, 20, 30, 40], [0, 1, 2, 3, 4]]


def test_labels_of_signals_differ_also_on_a_phone(tmp_path):
    names = [f"activation/encoder/block_{i}/attention/query" for i in range(12)]
    runs = read_runs([made_run(tmp_path / "run.zarr", ordinary(5, 2, 12), names=names)])
    labels = [signal["labels"] for signal in contents(runs)["runs"][0]["signals"]]
    for shown in zip(*labels, strict=True):
        assert len(set(shown)) == 12
    assert max(len(small) for _, small in labels) <= 20


def test_a_menu_of_changes_and_values_says_both(fake):
    (size,) = [c for c in contents(read_runs([fake.path]))["choices"] if c["name"] == "size"]
    assert size["either"] == "mean |change| or mean |value|"


def test_nothing_is_loaded_from_anywhere(made):
    loads = {"src", "href", "action", "srcset", "data", "poster", "background"}
    found = Elements(made).found
    loaded = [(tag, a) for tag, a in found if loads & set(a)]
    # But for links within the page.
    assert [(tag, a) for tag, a in loaded if not a.get("href", "").startswith("#")] == []
    assert not {"link", "iframe", "object", "embed", "base", "img"} & {tag for tag, _ in found}
    style = re.search(r"<style>(.*?)</style>", made, re.S)[1]
    assert "url(" not in style and "@import" not in style


def test_scripts_run_only_if_they_are_the_pages_own(made):
    (policy,) = [
        a["content"] for _, a in Elements(made).found if "content-security" in str(a).lower()
    ]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy.split("style-src")[0]
    assert "unsafe-eval" not in policy


def test_the_numbers_are_those_of_the_run(fake, made):
    data = json.loads(Elements(made).scripts[0])
    (table,) = data["runs"][0]["tables"]
    kept = table["kept"]["std"]
    values = numbers(kept["mean"]).reshape(2, 4, 45)
    run = dw.open_run(fake.path)
    for place, name in enumerate(run.signals):
        np.testing.assert_allclose(values[place, :3].T, run[name].per_replica("std"), rtol=1e-6)
        np.testing.assert_allclose(values[place, 3], run[name].merged("std"), rtol=1e-6)
    assert [signal["name"] for signal in data["runs"][0]["signals"]] == run.signals


@pytest.mark.parametrize("text", [*HOSTILE, "</SCRIPT>", "]]>", "\u2028\u2029", "\udc80"])
def test_json_ends_no_script(text):
    written = as_script({text: [text]})
    assert not set("<>&\u2028\u2029") & set(written)
    assert json.loads(written) == {text: [text]}
    with pytest.raises(ValueError, match="JSON compliant"):
        as_script([np.nan])


def test_hostile_names_are_text(tmp_path, made):
    names = list(HOSTILE)
    path = made_run(
        tmp_path / "run.zarr", ordinary(20, 2, len(names)), names=names,
        histogram=True, ratio=True, reference="<i>previous</i>",
    )  # fmt: skip
    found = Elements(page(read_runs([path]), "<script>alert(1)</script>"))
    plain = {tag for tag, _ in Elements(made).found} | {"details", "summary"}
    assert {tag for tag, _ in found.found} <= plain
    assert len(found.scripts) == 3
    text = "".join(found.text)
    assert "<i>previous</i>" in text and "<script>alert(1)</script>" in text
    assert "{{ 7 * 7 }}" in text


def test_a_run_without_rows_has_a_report(tmp_path):
    run = fake_run(tmp_path / "run.zarr", steps=0)
    made = page(read_runs([run.path]))
    assert "No step was recorded" in made
    assert 'id="heat-section"' not in made


def test_one_replica_has_no_section_of_differences(tmp_path):
    run = fake_run(tmp_path / "run.zarr", steps=9, replicas=1)
    made = page(read_runs([run.path]))
    assert 'id="curves-section"' in made
    assert 'id="divergence-section"' not in made


def test_two_runs_say_what_only_one_has(tmp_path):
    one = fake_run(tmp_path / "a.zarr", steps=30, signals=["loss", "only/this"])
    other = fake_run(tmp_path / "b.zarr", steps=20, replicas=3, signals=["loss", "only/that"])
    text = " ".join(" ".join(Elements(page(read_runs([one.path, other.path]))).text).split())
    assert "A is a.zarr, B is b.zarr" in text
    assert "1 signal in common" in text
    assert "1 signal only in A only/this" in text
    assert "1 signal only in B only/that" in text


def test_four_runs_say_what_they_do_differently(tmp_path):
    paths = []
    for place, rate in enumerate((0.01, 0.01, 0.1, None)):
        made = made_up(steps=range(6), replicas=(0, 1))
        card = Card(loss="mse", optimizer="Adam", learning_rate=rate) if rate else None
        info = replace(made.info, card=card)
        write_fake(tmp_path / f"{place}.zarr", (info, made.blocks))
        paths.append(tmp_path / f"{place}.zarr")
    runs = read_runs(paths)
    rows = {row.name: row for row in cards(runs)}
    assert rows["learning rate"].texts == ("0.01", "0.01", "0.1", "unknown")
    assert rows["learning rate"].differs and not rows["replicas"].differs
    text = " ".join(" ".join(Elements(page(runs)).text).split())
    assert "D is 3.zarr" in text
    differs, _, same = text.partition("that are the same in all")
    assert "learning rate 0.01 0.01 0.1 unknown" in differs
    assert "replicas 2 2 2 2" in same


def test_a_run_says_what_was_trained(tmp_path):
    layers = (
        Layer("conv", "Conv2D", "relu", 16, trained=False, penalty=0.01),
        Layer("drop", "Dropout", dropout=0.5),
        *(Layer(f"dense_{i}", "Dense", units=3) for i in range(12)),
    )
    made = made_up(steps=range(4))
    card = Card(layers, loss="own", own_loss=True, further_terms=True, from_logits=True)
    write_fake(tmp_path / "run.zarr", (replace(made.info, card=card), made.blocks))
    said = {row.name: row.texts[0] for row in cards(read_runs([tmp_path / "run.zarr"]))}
    assert said["loss"] == (
        "own (of the user's own), from logits with further terms or weights"
    )
    assert said["layers"].startswith(
        "conv: Conv2D(16, relu, penalty 0.01, frozen); drop: Dropout(0.5); "
    )
    assert said["layers"].endswith("dense_9: Dense(3); and 2 more layers")
    assert "optimizer" not in said and "learning rate" not in said


def begun(path, *provenances):
    """A run of some starts, begun so."""
    made = made_up(steps=range(6))
    write_fake(
        path,
        *(
            (replace(made.info, provenance=each, origin=Origin(start, 6 * start)), blocks)
            for start, each in enumerate(provenances)
            for blocks in [made.blocks if not start else made_up(steps=range(6, 9)).blocks]
        ),
    )
    return path


def test_runs_say_of_which_commit_and_by_which_command_they_were_begun(tmp_path):
    one = begun(tmp_path / "a.zarr", Provenance(1.8e9, "train.py --lr '<1>'", "a" * 40))
    other = begun(tmp_path / "b.zarr", Provenance(1.8e9, "train.py --lr 2", "a" * 40))
    older = begun(tmp_path / "c.zarr", None)
    rows = {row.name: row.texts for row in cards(read_runs([one, other, older]))}
    assert rows["command"] == ("train.py --lr '<1>'", "train.py --lr 2", "unknown")
    assert rows["git commit"] == ("a" * 40, "a" * 40, "unknown")
    assert "train.py --lr '<1>'" in " ".join(Elements(page(read_runs([one]))).text)
    assert "command" not in dict(facts_of(describe(StoredRun(older))))
    assert dw.diff(one, other).differences == (
        "Command: train.py --lr '<1>' in A, train.py --lr 2 in B.",
    )
    assert dw.diff(one, older).differences == ()


def test_a_later_start_with_other_code_is_named(tmp_path):
    starts = [Provenance(1.8e9 + i, "train.py", letter * 40) for i, letter in enumerate("ab")]
    facts = dict(facts_of(describe(StoredRun(begun(tmp_path / "run.zarr", *starts)))))
    assert facts["git commit"] == f"{'a' * 40}, and in a later start {'b' * 40}"
    assert facts["command"] == "train.py"


def test_metrics_of_epochs_are_charts_of_training_and_validation(tmp_path):
    run = with_epochs(
        tmp_path / "run.zarr",
        {"acc": 0.5, "loss": 4.0, "val_loss": 3.0, "val_acc": 0.5, "far_loss": 9.0},
        {"acc": 0.6, "loss": 2.0},
        {"acc": 0.7, "loss": 1.0, "val_loss": 2.0, "val_acc": 0.5, "far_loss": 9.0},
        {"acc": 0.8, "loss": math.nan, "val_loss": 2.5, "val_acc": 0.5},
        rates=[0.1, 0.1, 0.01, 0.01],
    )
    loss, acc, rate = epoch_charts([dataclasses.replace(run, sets=("far",))])
    assert [loss.name, acc.name, rate.name] == ["loss", "acc", "learning rate"]
    assert [line.of for line in loss.lines] == ["training", "validation", "far"]
    assert [line.style for line in loss.lines] == [0, 1, 2]
    assert [line.said for line in loss.lines] == [
        "4 to 1", "3 to 2.5, lowest 2 in epoch 2", "9",
    ]  # fmt: skip
    # Of a set whose steps are not recorded it is not known what it is of.
    *_, alone, _ = epoch_charts([run])
    assert (alone.name, [line.of for line in alone.lines]) == ("far_loss", [""])
    # A line goes on over epochs that were not validated, and ends where there is no number.
    points = [line.path.removeprefix("M").split("L") for line in loss.lines]
    assert [len(each) for each in points] == [3, 3, 2]
    assert (loss.top, loss.bottom, loss.first, loss.last) == ("9", "1", "0", "3")
    assert points[2][0] == "6.0 6.0" and points[0][-1].endswith(" 104.0")
    assert rate.said == "learning rate, epochs 0 to 3: 0.1 to 0.01."


def test_metrics_of_epochs_of_several_runs_are_over_each_other(tmp_path):
    one = with_epochs(tmp_path / "a.zarr", {"loss": 4.0}, {"loss": 2.0})
    other = with_epochs(tmp_path / "b.zarr", *({"loss": 3.0 - i} for i in range(3)))
    older = with_epochs(tmp_path / "c.zarr")
    (chart,) = epoch_charts([one, other, older])
    assert [(line.letter, line.said) for line in chart.lines] == [
        ("A", "4 to 2"), ("B", "3 to 1"),
    ]  # fmt: skip
    # The second epoch of three is in the middle.
    assert chart.lines[0].path.split("L")[1].startswith("150.0 ")
    assert 'id="epochs-section"' in page([one, other, older])
    assert 'id="epochs-section"' not in page([older])


def test_a_spike_among_many_epochs_keeps_its_height(tmp_path):
    metrics = [{"loss": 100.0 if i == 1234 else 1.0} for i in range(3000)]
    (chart,) = epoch_charts([with_epochs(tmp_path / "run.zarr", *metrics)])
    heights = [float(point.split()[1]) for point in chart.lines[0].path[1:].split("L")]
    assert len(heights) <= 600 and heights.count(6.0) == 1


def test_findings_of_epochs_link_to_them(tmp_path):
    metrics = [{"loss": 1.0 / (1 + i), "val_loss": 1.0 + 0.1 * abs(i - 1)} for i in range(12)]
    run = with_epochs(tmp_path / "run.zarr", *metrics)
    assert {f.kind: link_to(f, run, 0, []) for f in run.findings}["overfitting"] == (
        "#epochs-heading"
    )
    assert 'id="epochs-heading"' in page([run])
    # It is no signal that curves could show at first.
    assert contents([run])["first"] == "" or "signal=" in contents([run])["first"]


def test_a_page_says_when_steps_were_done_only_where_commits_do(tmp_path):
    run = read_runs([made_run(tmp_path / "run.zarr", ordinary(20, 2, 1))])[0]
    assert contents([run])["runs"][0]["times"] is None
    timed = replace(run, times=Times((0.0, 10.0, 20.0), (0.0, 5.0, 30.0), 2))
    assert contents([timed])["runs"][0]["times"]["seconds"] == (0.0, 5.0, 30.0)


def test_what_differs_most_is_shown_first(tmp_path):
    deltas = ordinary(30, 2, 3)
    paths = [made_run(tmp_path / "a.zarr", deltas)]
    deltas[:, :, 1] *= 9.0
    paths.append(made_run(tmp_path / "b.zarr", deltas))
    assert contents(read_runs(paths))["first"] == "#run=0&signal=1"


def test_two_runs_without_a_common_signal(tmp_path):
    paths = [fake_run(tmp_path / f"{name}.zarr", steps=9, signals=[name]).path for name in "ab"]
    made = page(read_runs(paths))
    assert "0 signals in common" in made
    assert 'id="curves-section"' not in made


def test_of_many_replicas_those_furthest_out_are_drawn(tmp_path):
    deltas = np.random.default_rng(0).normal(5.0, 1.0, (6, 20, 1, 30))
    deltas[:, 13] += 4.0
    (run,) = read_runs([made_run(tmp_path / "run.zarr", deltas)])
    drawn = drawn_replicas(run.overview)
    assert (len(drawn), 13 in drawn) == (16, True)
    made = page([run])
    assert "Of 20 replicas the 16 furthest from the others have curves" in made
    assert json.loads(Elements(made).scripts[0])["runs"][0]["replicas"] == drawn


def test_flags_are_packed_signal_by_signal():
    flags = np.random.default_rng(0).random((7, 3, 2)) < 0.4
    bits = np.frombuffer(base64.b64decode(packed(flags)), np.uint8)
    found = np.unpackbits(bits, bitorder="little")[:42].reshape(2, 3, 7)
    np.testing.assert_array_equal(found, flags.transpose(2, 1, 0))
    assert packed(np.zeros((7, 3, 2), bool)) is None


def test_progress_reaches_its_end(tmp_path):
    path = made_run(tmp_path / "run.zarr", ordinary(40, 2, 2), histogram=True)
    told = []
    read_runs([path], progress=lambda done, total: told.append((done, total)))
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (120, 120)  # each step once, and once for each histogram


def test_a_long_run_takes_no_more_than_its_budget(tmp_path):
    # tests/benchmarks/report_size.py does the same at full size.
    tables = (LongTable(40), LongTable(10, every=7))
    path = long_run(tmp_path / "run.zarr", steps=2000, tables=tables, window=32).path
    sizes = []
    for budget in (200_000, 800_000):
        runs = read_runs([path], budget=budget)
        sizes.append(len(as_script(contents(runs))))
        assert sizes[-1] < budget
    assert sizes[1] > 2 * sizes[0]


def test_a_report_is_replaced_and_nothing_is_left_beside_it(fake, tmp_path):
    runs, place = read_runs([fake.path]), tmp_path / "deep" / "report.html"
    place.parent.mkdir()
    place.write_text("old")
    size = write_page(runs, place)
    assert place.stat().st_size == size > 4_000_000
    assert [each.name for each in place.parent.iterdir()] == ["report.html"]


def test_places_that_take_no_report_are_refused(fake, tmp_path):
    runs = read_runs([fake.path])
    with pytest.raises(RunExistsError, match="is a folder; name a file"):
        write_page(runs, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(NotWritableError, match="cannot be written"):
        write_page(runs, tmp_path / "file" / "report.html")


@pytest.mark.parametrize("missing", ["jinja2", "plotly.offline"])
def test_without_a_library_the_remedy_is_said(fake, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SetupError, match=r'pip install "distwatch\[report\]"'):
        page(read_runs([fake.path]))


@pytest.mark.parametrize("name", HOSTILE)
def test_files_have_plain_names(name):
    found = file_name("curves", name)
    assert re.fullmatch(r"curves-[A-Za-z0-9_-]{1,80}", found)
    assert file_name("curves", name, {found}) == f"{found}-2"


def test_file_names_stay_in_their_folder():
    assert file_name("curves", "../../etc/passwd") == "curves-etc-passwd"
    assert file_name("curves", "///") == "curves-signal"


def test_the_parts_of_the_page_are_in_the_wheel(tmp_path):
    root = Path(page_module.__file__).parents[2]
    hatchling = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d"]
    if importlib.util.find_spec("hatchling") is None:
        parts = {each.name for each in Path(page_module.__file__).parent.iterdir()}
        assert {"page.html", "page.css", *SCRIPTS} <= parts
        return
    subprocess.run([*hatchling, str(tmp_path)], cwd=root, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for part in ("page.html", "page.css", *SCRIPTS):
        assert f"distwatch/report/{part}" in names


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for start in ("monday", "tuesday"):
        made_run(tmp_path / start / "fit-000.zarr", ordinary(20, 2, 1))
    paths = [tmp_path / start / "fit-000.zarr" for start in ("monday", "tuesday")]
    made = page(read_runs(paths))
    assert "<title>monday/fit-000.zarr and tuesday/fit-000.zarr · distwatch</title>" in made
    assert page_beside(paths).name == "monday-fit-000-and-tuesday-fit-000.html"
