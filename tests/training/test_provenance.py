"""A run says by which command and of which commit it was begun, and nothing secret."""

import sys

import numpy as np
import pytest
from trainings import fit, strategy_over, unlike_rows

import distwatch as dw
from distwatch.training import provenance
from distwatch.training.provenance import command_of, commit_of, folder_of, wanted

COMMIT, OTHER = "0123456789abcdef" * 2 + "01234567", "f" * 40


def written(folder, **files):
    """Write files below a folder's .git; "__" in a name stands for a slash."""
    for name, text in files.items():
        path = folder / ".git" / name.replace("__", "/").replace("packed_refs", "packed-refs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    "files",
    [
        {"HEAD": f"{COMMIT}\n"},
        {"HEAD": "ref: refs/heads/a/b\n", "refs__heads__a__b": f"{COMMIT}\n"},
        {
            "HEAD": "ref: refs/heads/main\n",
            "packed_refs": f"# pack-refs with: peeled\n{OTHER} refs/heads/main2\n"
            f"{COMMIT} refs/heads/main\n^{OTHER}\n",
        },
        # A branch's own file is newer than the packed ones.
        {
            "HEAD": "ref: refs/heads/main",
            "refs__heads__main": COMMIT,
            "packed_refs": f"{OTHER} refs/heads/main\n",
        },
    ],
)
def test_the_commit_is_read_from_files(tmp_path, files):
    written(tmp_path, **files)
    inner = tmp_path / "src" / "deep"
    inner.mkdir(parents=True)
    assert commit_of(inner) == COMMIT


def test_the_commit_of_a_worktree(tmp_path):
    written(tmp_path / "main", HEAD=OTHER, refs__heads__side=COMMIT)
    own = written(tmp_path / "main", worktrees__side__HEAD="ref: refs/heads/side\n")
    (own / ".git/worktrees/side/commondir").write_text("../..\n")
    side = tmp_path / "side"
    side.mkdir()
    (side / ".git").write_text(f"gitdir: {own}/.git/worktrees/side\n")
    assert commit_of(side) == COMMIT


@pytest.mark.parametrize(
    "head", ["", "ref: refs/heads/.invalid", "ref: refs/heads/../../secret", "\xff" * 40]
)
def test_what_names_no_commit_is_none(tmp_path, head):
    # So that a path through the folder of branches leads somewhere.
    written(tmp_path, HEAD=head, secret=COMMIT, refs__heads__main=OTHER)
    assert commit_of(tmp_path) is None


def test_without_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "_git_folder", lambda folder: None)
    assert commit_of(tmp_path) is None


def test_the_folder_is_the_scripts_but_for_what_is_installed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = tmp_path / "code" / "train.py"
    script.parent.mkdir()
    script.touch()
    assert folder_of([str(script), "-v"]) == script.parent
    assert folder_of([sys.executable]) == tmp_path
    assert folder_of(["-c"]) == folder_of([]) == tmp_path


@pytest.mark.parametrize(
    ("given", "hidden"),
    [
        (["--password", "abc"], ["--password", "***"]),
        (["--api-key=abc"], ["--api-key=***"]),
        (["db.password=abc"], ["db.password=***"]),
        (["HF_TOKEN=abc"], ["HF_TOKEN=***"]),
        (["+secretKey:abc"], ["+secretKey:***"]),
        (["s3://me:abc@host/x?token=q&part=1"], ["s3://***@host/x?token=***&part=1"]),
        (["hf_abcdefghijklmnop"], ["***"]),
        (["ghp_abcdefghijklmnop"], ["***"]),
        (["Ab1" * 12], ["***"]),
        (["--password", "1234"], ["--password", "***"]),
        (["--passwords", "a", "b", "--x", "c"], ["--passwords", "***", "***", "--x", "c"]),
        (["--dbpassword=a", "--hftoken", "a"], ["--dbpassword=***", "--hftoken", "***"]),
        (["--url=https://h/?token=a&x=1"], ["--url=https://h/?token=***&x=1"]),
        (["--set=api_key=a"], ["--set=api_key=***"]),
        (['{"api_key": "a", "lr": 0.1}'], ['{"api_key": "***", "lr": 0.1}']),
        (["--header=Authorization: Bearer a"], ["--header=Authorization:***"]),
        (["https://h/?sig=a&X-Amz-Signature=b"], ["https://h/?sig=***&X-Amz-Signature=***"]),
        (
            ["postgres://u:p@ss@host", "db://u:p/s@host"],
            ["postgres://***@host", "db://***@host"],
        ),
    ],
)
def test_secrets_are_hidden(given, hidden):
    assert [*provenance.without_secrets(given)] == hidden


@pytest.mark.parametrize(
    "given",
    [
        ["--tokenizer", "bert", "--max_tokens=512", "--lr", "-0.1"],
        ["--password", "--verbose"],
        ["--resume", "runs/2026-11-25-1412-digits.zarr", COMMIT],
        ["--key_dim", "64", "--num-token-types", "2", "--token_dropout=0.1", "--pass", "2"],
        ["--no-auth", "train.csv"],
        ["C:\\data\\train.py", "https://host/x?part=1"],
    ],
)
def test_what_is_no_secret_is_shown(given):
    assert [*provenance.without_secrets(given)] == given


def test_a_command_line_is_as_a_shell_takes_it():
    assert command_of(["train.py", "two words"]) == "train.py 'two words'"
    assert command_of(["train.py", *["x" * 1000] * 9]).count("x") == 4000
    assert "\N{REPLACEMENT CHARACTER}" in command_of(["\udcff.py"])


@pytest.mark.parametrize(
    ("said", "is_wanted"), [("0", False), ("OFF", False), ("", True), ("1", True)]
)
def test_an_environment_variable_turns_it_off(said, is_wanted):
    assert wanted({provenance.VARIABLE: said}) is is_wanted


def test_what_cannot_be_read_never_fails(monkeypatch):
    def fails(arguments):
        raise RuntimeError

    monkeypatch.setattr(provenance, "command_of", fails)
    monkeypatch.setattr(provenance, "folder_of", fails)
    found = provenance.provenance()
    assert found.began > 0 and (found.command, found.commit) == (None, None)


@pytest.mark.parametrize("off", [False, True])
def test_a_training_records_it(tmp_path, monkeypatch, off):
    import keras

    written(tmp_path, HEAD=COMMIT)
    script = tmp_path / "train.py"
    script.touch()
    monkeypatch.setattr(sys, "argv", [str(script), "--token", "abc"])
    if off:
        monkeypatch.setenv(provenance.VARIABLE, "0")
    with strategy_over(1).scope():
        model = keras.Sequential([keras.Input((12,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    x, _ = unlike_rows(16)
    fit(model, x, np.ones((16, 1)), dw.Watch(tmp_path / "run.zarr"))
    found = dw.open_run(tmp_path / "run.zarr").info.provenance
    assert found.began > 1.7e9
    expected = (None, None) if off else (f"{script} --token '***'", COMMIT)
    assert (found.command, found.commit) == expected
