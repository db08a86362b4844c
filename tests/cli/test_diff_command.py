"""``distwatch diff``: what it says, and how it ends."""

import json

from commands import HOSTILE, assert_refused

from distwatch.testing.fake import fake_run


def runs(folder, *seeds, **options):
    return [
        fake_run(folder / f"{number}.zarr", seed=seed, **options).path
        for number, seed in enumerate(seeds)
    ]


def test_identical_runs(call, tmp_path):
    code, out, err = call("diff", *runs(tmp_path, 1, 1))
    assert (code, err) == (0, "")
    assert out == (
        "The runs are identical, bit for bit, in all that both recorded: 2 signals over "
        "20 steps.\n"
    )


def test_runs_that_part(call, tmp_path):
    a, b = runs(tmp_path, 1, 2)
    code, out, err = call("diff", a, b)
    assert (code, err) == (1, "")
    assert out.startswith("The runs part at step 0, in activation/dense")
    assert "\nsignal " in out
    code, out, _ = call("diff", a, b, "--json")
    found = json.loads(out)
    assert (code, found["verdict"], found["first"]["step"]) == (1, "parted", 0)
    assert found["sentences"][0].startswith("The runs part at step 0")


def test_a_tolerance_decides(call, tmp_path):
    a, b = runs(tmp_path, 1, 2)
    code, out, _ = call("diff", a, b, "--tolerance", "10")
    assert code == 1  # Some replicas have no elements where the others have.
    same = runs(tmp_path / "same", 3, 3)
    assert call("diff", *same, "--tolerance", "0")[0] == 0
    code, out, err = call("diff", *same, "--tolerance", "-1")
    assert (code, out) == (2, "")
    assert "--tolerance" in err


def test_runs_without_a_common_signal_are_refused(call, tmp_path):
    a, b = (
        fake_run(tmp_path / name, signals=[f"activation/{name}"]).path for name in ("a", "b")
    )
    assert_refused(call("diff", a, b), "no signal in common", "activation/a")
    assert_refused(call("diff", a, a, "--phase", "test"), "no phase 'test'")


def test_a_second_run_has_to_be_named(call, tmp_path):
    code, out, err = call("diff", *runs(tmp_path, 1))
    assert (code, out) == (2, "")
    assert "missing argument" in err.lower()


def test_names_are_shown_literally(call, tmp_path):
    paths = [
        fake_run(tmp_path / f"{seed}.zarr", seed=seed, signals=HOSTILE).path for seed in (1, 2)
    ]
    out = call("diff", *paths)[1]
    assert "activation/[red]loud[/red]" in out
    assert "\x1b" not in out
    assert "two lines" in out
