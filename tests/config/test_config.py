import re
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from distwatch import actions
from distwatch.config import WatchConfig, read_config, watch_config
from distwatch.errors import ConfigError
from distwatch.event_files.options import EventOptions
from distwatch.signals import activations
from distwatch.signals.schedules import every, first
from distwatch.store.new_runs import FolderOfRuns

GOOD = """
store: run.zarr
signals: ["dense_*", encoder/out]
reference: none
schedule: {every: 10}
window: 64
overwrite: true
strict: true
tensorboard: {folder: logs, every: 10, statistics: [mean, l2]}
log_to_keras: ["dense_*:l2", "re:.*/lstm:0:mean"]
"""


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "watch.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_good_file(written):
    config = read_config(written(GOOD))
    assert config.store.name == "run.zarr"
    assert config.signals == (activations(["dense_*", "encoder/out"]),)
    assert config.reference == "none"
    assert config.schedule == every(10)
    assert config.window == 64
    assert config.overwrite is True
    assert config.strict is True
    assert config.tensorboard == EventOptions(Path("logs"), every=10, statistics=("mean", "l2"))
    assert config.log_to_keras == (("dense_*", "l2"), ("re:.*/lstm:0", "mean"))


def test_only_the_store_is_needed(written):
    config = read_config(written("store: run.zarr"))
    assert config == watch_config(store="run.zarr")
    assert config.signals is None
    assert config.reference == "previous"
    assert config.schedule == every(1)
    assert config.window == 256
    assert config.overwrite is False
    assert config.strict is False
    assert config.tensorboard is None
    assert config.log_to_keras == ()


def test_one_pattern_may_stand_alone(written):
    assert read_config(written("store: a\nsignals: dense")).signals == (activations("dense"),)


def test_a_schedule_may_be_made_or_written():
    assert watch_config(store="a", schedule=first(3)).schedule == first(3)
    assert watch_config(store="a", schedule=10).schedule == every(10)
    assert watch_config(store="a", schedule={"first": 3}).schedule == first(3)


def test_configs_do_not_share_a_schedule():
    one, other = watch_config(store="a"), watch_config(store="a")
    one.schedule.k = 5
    assert other.schedule.k == 1


def test_is_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        watch_config(store="a").window = 5


@pytest.mark.parametrize(
    ("key", "near"), [("signal", "signals"), ("windows", "window"), ("override", "overwrite")]
)
def test_an_unknown_key_names_the_nearest(written, key, near):
    path = written(f"store: run.zarr\n{key}: 1")
    with pytest.raises(ConfigError, match=f"unknown key '{key}'; nearest: '{near}'") as error:
        read_config(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("window: 0", "window=0: expected a whole number from 1"),
        ("window: -3", "window=-3"),
        ("window: many", "window='many'"),
        ("window: 1.5", "window=1.5"),
        ("window: true", "window=True"),
        ("drain_every: 0", "drain_every=0"),
        ("drain_every: .inf", "drain_every=inf"),
        ("drain_every: true", "drain_every=True"),
        ("reference: last", "unknown reference 'last': choose one of 'previous', 'batch_mean'"),
        ("reference: 3", "reference=3"),
        ("signals: []", "glob strings"),
        ("signals: [1]", "glob strings"),
        ("signals: 5", "glob strings"),
        ("schedule: {every: 0}", "every(k): 0 is not a whole number from 1"),
        ("schedule: often", "write one of {every: 10}"),
        ("schedule: {often: 1}", "write one of {every: 10}"),
        ("overwrite: 3", "overwrite=3"),
        ("strict: 'no'", "strict='no'"),
        ("store: 5", "store=5"),
        ("tensorboard: 5", "tensorboard: 5: give a folder, such as 'logs/'"),
        ("tensorboard: {folder: logs, evry: 3}", "unknown key 'evry'; nearest: 'every'"),
        ("tensorboard: {folder: logs, statistics: [men]}", "'men'; nearest: 'mean'"),
        ("log_to_keras: dense", "log_to_keras='dense': name a signal"),
        ("log_to_keras: [loss:mean, 3]", "log_to_keras=3"),
    ],
)
def test_a_bad_value_says_what_it_should_be(written, line, says):
    text = line if line.startswith("store") else f"store: run.zarr\n{line}"
    with pytest.raises(ConfigError) as error:
        read_config(written(text))
    assert says in str(error.value)


def test_every_wrong_key_is_named_at_once():
    with pytest.raises(ConfigError) as error:
        watch_config(store="a", window=0, reference="last", nonsense=1)
    for word in ("window=0", "'last'", "'nonsense'"):
        assert word in str(error.value)


def test_without_a_store_runs_go_into_a_folder_of_them(written):
    usual = FolderOfRuns(Path("runs").absolute())
    assert watch_config(window=3).store == read_config(written("window: 3")).store == usual
    assert watch_config(store="s3://bucket/runs/").store == FolderOfRuns("s3://bucket/runs")
    assert watch_config(store="run.zarr/").store == Path("run.zarr").absolute()
    assert watch_config(store=usual).store == usual


@pytest.mark.parametrize("key", ["overwrite", "resume"])
def test_what_needs_the_path_of_a_run(written, key):
    with pytest.raises(ConfigError, match=f"{key}=True needs the path of the run"):
        read_config(written(f"store: runs/\n{key}: true"))


@pytest.mark.parametrize("text", ["", "- store\n- run.zarr", "run.zarr", "3"], ids=repr)
def test_a_file_without_keys(written, text):
    with pytest.raises(ConfigError, match=r"expected keys such as 'store: run\.zarr'"):
        read_config(written(text))


def test_a_file_that_is_no_yaml(written):
    with pytest.raises(ConfigError, match=r"watch\.yaml: line 1: this is not YAML: expected"):
        read_config(written("store: [run.zarr"))


def bomb(last):
    """Nine levels of aliases, each nine times the one before: 400 million values."""
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for i in range(1, 9):
        nine = ", ".join([f"*a{i - 1}"] * 9)
        levels.append(f"a{i}: &a{i} [{nine}]")
    return "\n".join([*levels, f"{last}: *a8"])


#: Files that take for ever, or that something in YAML's library fails at.
HOSTILE = {
    "aliases": (bomb("store"), "its aliases make more than 20,000 values"),
    "aliases-elsewhere": (bomb("signals"), "its aliases make more than 20,000 values"),
    "itself": ("store: r\nsignals: &a [*a]", "its aliases make more than"),
    "brackets": ("store: " + "[" * 5_000, "brackets within brackets"),
    "closed-brackets": ("store: " + "[" * 3_000 + "]" * 3_000, "brackets within brackets"),
    "dashes": ("- " * 20_000, "brackets within brackets"),
    "date": ("window: 3\nstore: 2025-02-30", "line 2: .*day is out of range"),
    "time": ("store: r\nwindow: 2025-01-01 25:61:61", "line 2: .*hour must be in"),
    "digits": ("store: r\nwindow: " + "9" * 5_000, "line 2: .*5,000 characters"),
    "hex": ("store: r\nsignals: [0x" + "f" * 5_000 + "]", "line 2: .*5,002 characters"),
    "sexagesimal": ("store: r\nwindow: 1" + ":1" * 3_000, "line 2: .*6,001 characters"),
    "set": ("!!set {store, window}", "expected keys such as"),
    "boolean": ("store: !!bool maybe", "line 1: this is not YAML"),
    "logarithmic": ("store: r\nschedule: {logarithmic: 1" + "0" * 300 + "}", "to 2..53"),
    "every": ("store: r\nschedule: {every: 1" + "0" * 30 + "}", "from 1 to 2..53"),
    "at": ("store: r\nschedule: {at: [1" + "0" * 30 + "]}", "from 0 to 2..53"),
    "many-at": (
        f"store: r\nschedule: {{at: {list(range(10_001))}}}".replace(" ", "").replace(
            ":", ": "
        ),
        "10,001 steps, at most 10,000",
    ),
    "deep-pattern": (
        "store: r\nsignals: ['re:" + "(" * 3_000 + "']",
        "no.* regular expression",
    ),
    "repeats": ("store: r\nsignals: ['re:a{99999999999}']", "not a regular expression"),
    "null": ('store: "a\\0b"', "no file has this name"),
    "half-a-letter": ('store: "\\ud800"', "no file has this name"),
    "long": ("store: " + "a" * 10_000_000, "more than 131,072 bytes"),
    "keys": ("\n".join(f"k{i}: 1" for i in range(8_000)), "unknown key 'k0'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_at_once(written, name):
    text, words = HOSTILE[name]
    path = written(text)
    began = time.process_time()
    with pytest.raises(ConfigError, match=f"(?s){words}") as refused:
        read_config(path)
    assert time.process_time() - began < 4
    assert len(str(refused.value)) < 3_000


def test_a_file_that_never_ends():
    with pytest.raises(ConfigError, match="more than 131,072 bytes"):
        read_config("/dev/zero")


def test_aliases_are_welcome(written):
    text = "store: run.zarr\nsignals: [{gradients: &these [dense_*]}, {updates: *these}]"
    assert len(read_config(written(text)).signals) == 2


def test_a_file_that_is_no_text(tmp_path):
    path = tmp_path / "watch.yaml"
    path.write_bytes(b"\xff\xfe\xfa\x00store")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "none.yaml")


def test_fields_are_the_documented_ones():
    assert set(WatchConfig.model_fields) == {
        "store",
        "max_overhead",
        "signals",
        "reference",
        "schedule",
        "window",
        "drain_every",
        "overwrite",
        "resume",
        "strict",
        "on_full",
        "durability",
        "max_bytes",
        "at_max_bytes",
        "keep_batch",
        "phases",
        "tensorboard",
        "log_to_keras",
        "rules",
    }


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: actions.on("NonFinit", do=actions.stop()), "no rule 'NonFinit'; nearest: 'No"),
        (lambda: actions.on("NonFinite"), "nothing is done on NonFinite: say what"),
        (lambda: actions.on("*", do="halt"), "do='halt': give stop, or one of"),
        (
            lambda: actions.on(do=actions.stop(), severity="error"),
            "expected 'warning' or 'note'",
        ),
        (lambda: actions.checkpoint("model.h5"), "end it with .keras or .weights.h5"),
        (lambda: actions.call("post"), "file.py:name or module:name"),
        (lambda: actions.call(5), "call=5: give a function"),
        (lambda: actions.log_json("s3://bucket/found.jsonl"), "a file of this machine"),
        (lambda: actions.log_json(""), "give the path of a file"),
    ],
)
def test_what_is_wrong_with_an_action_is_said(make, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        make()


def test_only_a_training_is_stopped_or_saved():
    for do in (actions.stop(), actions.checkpoint("a.keras")):
        with pytest.raises(ConfigError, match="stop and checkpoint are for a training"):
            watch_config(store="a.zarr", phases=["test"], rules=[actions.on(do=do)])
    watch_config(store="a.zarr", phases=["test"], rules=[actions.on(do=actions.call(print))])


def test_files_and_functions_stay_where_they_are(tmp_path, monkeypatch):
    """Whatever the current folder becomes."""
    monkeypatch.chdir(tmp_path)
    do = [{"log_json": "a.jsonl"}, {"checkpoint": "{step}.keras"}, {"call": "b.py:post"}]
    (choice,) = watch_config(store="a.zarr", rules={"rule": "b.py:mine", "do": do}).rules
    assert [each.given for each in choice.do] == [
        f"{tmp_path}/{name}" for name in ("a.jsonl", "{step}.keras", "b.py:post")
    ]
    assert choice.own == (f"{tmp_path}/b.py:mine",)
