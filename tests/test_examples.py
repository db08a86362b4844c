"""The examples run, and what they print is what their runs hold, and what is true."""

import base64
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from sklearn.datasets import load_diabetes, load_digits

import distwatch as dw

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name, *arguments, cwd):
    """Run an example, as from anywhere, with warnings as errors; returns what it prints."""
    ended = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / name, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert ended.returncode == 0, ended.stderr
    assert "Warning" not in ended.stderr
    return ended.stdout


def numbers_after(label, printed):
    """The numbers on the line that begins with a label."""
    (line,) = re.findall(rf"^ *{re.escape(label)}(.*)$", printed, re.MULTILINE)
    return np.array(re.findall(r"[+-]?\d+\.\d+|[+-]?\d+", line), float)


@pytest.fixture(scope="module")
def printed_and_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    printed = run_example("three_textbook_ways.py", "--folder", folder, cwd=folder)
    return printed, folder


def rows_of(printed, replicas):
    """What was printed for this number of replicas: name -> five values."""
    (part,) = re.findall(rf"^On {replicas} replica.*?\n((?: .*\n)+)", printed, re.MULTILINE)
    rows = re.findall(r"^ {5}(\S.*?)  +(\S+(?: +\S+)*)$", part, re.MULTILINE)
    return {name: np.array(values.split(), float) for name, values in rows}


@pytest.mark.parametrize("replicas", [1, 2])
def test_printed_numbers_are_those_of_the_runs(printed_and_folder, replicas):
    printed, folder = printed_and_folder
    rows = rows_of(printed, replicas)
    layer = dw.open_run(folder / f"layer-{replicas}.zarr")["activation/change"]
    expected = {
        f"L2 on replica {r}": layer.per_replica("l2").sel(replica=r) for r in range(replicas)
    }
    output = dw.open_run(folder / f"output-{replicas}.zarr").to_xarray()
    output = output.sel(signal="probe/output")
    expected["mean change"] = output["l1"].sum("replica") / output["count"].sum("replica")
    expected["maximum change"] = abs(output[["min", "max"]].to_array()).max(
        ["variable", "replica"]
    )
    run = dw.open_run(folder / f"hidden-{replicas}.zarr")
    hidden = run["activation/hidden"]
    expected |= {"smallest": hidden.merged("min"), "largest": hidden.merged("max")}
    for name, q in (("median", 0.5), ("90%", 0.9), ("99%", 0.99)):
        expected[name] = run.quantile("activation/hidden", q, per_step=True)
    assert rows.keys() == expected.keys()
    for name, values in expected.items():
        assert values.shape == (5,), name
        np.testing.assert_allclose(rows[name], values, atol=6e-5, err_msg=name)


def test_first_batches_have_no_change_and_all_have_activations(printed_and_folder):
    rows = rows_of(printed_and_folder[0], 2)
    assert np.isnan(rows["maximum change"][0])
    assert (rows["maximum change"][1:] > 0).all()
    assert (rows["largest"] > rows["99%"]).all()
    assert (rows["99%"] > rows["90%"]).all()
    assert (rows["90%"] >= rows["median"]).all()


def test_one_device_and_two_replicas_see_the_same_activations(printed_and_folder):
    # The same weights at the first batch, and halves of the same batch.
    one, two = (rows_of(printed_and_folder[0], n) for n in (1, 2))
    for name in ("smallest", "median", "90%", "99%", "largest"):
        np.testing.assert_allclose(one[name][0], two[name][0], atol=2e-4)


# The digits: trained under MirroredStrategy, then analysed without TensorFlow.


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    printed = run_example("digits_under_mirrored.py", cwd=folder)
    # The path that it writes to unless told.
    return printed, folder / "runs" / "digits.zarr"


def in_epochs(values):
    """Four epochs of 28 steps: an array of shape (step, ...) as (epoch, step, ...)."""
    return np.asarray(values).reshape(4, 28, *values.shape[1:])


def test_a_change_is_told_from_rounding(tmp_path):
    printed = run_example("where_runs_part.py", "--folder", tmp_path, cwd=tmp_path)
    healthy, changed = printed.split("one.zarr and changed.zarr")
    assert "differ only by what rounding explains" in healthy
    assert "The runs part at step 50, in update/guess/" in changed
    found = dw.diff(tmp_path / "one.zarr", tmp_path / "changed.zarr")
    assert printed.endswith(f"{found}\n\n")


def test_digits_are_learnt_and_told_of(digits):
    printed, store = digits
    run = dw.open_run(store)
    assert run.summary() in printed
    losses = [float(loss) for loss in re.findall(r"loss: (\d\.\d+)", printed)]
    assert len(losses) == 4
    assert losses == sorted(losses, reverse=True)
    # Batches of one size on each replica, so that means may be averaged.
    watched = in_epochs(run["loss"].per_replica("mean")).mean(axis=(1, 2))
    np.testing.assert_allclose(losses, watched, atol=1e-4)


def test_tables_of_the_digits_are_of_their_rows(digits):
    printed, store = digits
    run = dw.open_run(store)
    for layer in ("strokes", "hidden", "digit"):
        view = run[f"activation/{layer}"]
        sums, counts = (in_epochs(view.per_replica(name)) for name in ("l1", "count"))
        expected = np.nansum(sums, axis=(1, 2)) / counts.sum(axis=(1, 2))
        told = numbers_after(f"activation/{layer}", printed)
        np.testing.assert_allclose(told, expected, atol=6e-5)
        ratio = in_epochs(run[f"update/{layer}/kernel"].per_replica("ratio"))[..., 0]
        told = numbers_after(f"update/{layer}/kernel", printed)
        np.testing.assert_allclose(told, np.median(ratio, axis=1), atol=6e-6)


@pytest.fixture(scope="module")
def analysed(digits, tmp_path_factory):
    printed = run_example("analyse_with_dask.py", digits[1], cwd=tmp_path_factory.mktemp("a"))
    return printed, dw.open_run(digits[1])


def test_epochs_merge_to_the_whole_training_data(analysed):
    printed, _ = analysed
    pixels = load_digits().data[:1792] / 16
    table = re.findall(r"^(\d)  +(\d+\.\d) +(\d\.\d+) +(\d\.\d+)$", printed, re.MULTILINE)
    assert [row[0] for row in table] == ["0", "1", "2", "3"]
    told = np.array(table, float)[:, 1:]
    expected = [[pixels.size, pixels.mean(), pixels.std()]] * 4
    np.testing.assert_allclose(told, expected, atol=2e-6)
    # No step alone would do: their means differ.
    assert np.ptp(analysed[1]["input"].merged("mean").to_numpy()) > 0.01
    quantiles = [numbers_after(f"replica {r}: median, 90%, 99%: ", printed) for r in (0, 1)]
    true = np.quantile(pixels, [0.5, 0.9, 0.99])
    np.testing.assert_allclose(quantiles, [true, true], rtol=0.05)


def test_divergence_and_correlation_are_numpys(analysed):
    printed, run = analysed
    loss = run["loss"].merged("mean").to_numpy()
    for signal in ("activation/strokes", "activation/hidden", "input"):
        means = run[signal].per_replica("mean").to_numpy()
        apart = abs(means[:, 0] - means[:, 1]) / run[signal].merged("std")
        expected = np.nanmean(in_epochs(apart), axis=1)
        size = run[signal].merged("l2").to_numpy()
        known = ~np.isnan(size)
        correlation = np.corrcoef(size[known], loss[known])[0, 1]
        of_epochs, together = re.findall(rf"^ *{signal} +(.*)$", printed, re.MULTILINE)
        np.testing.assert_allclose(np.array(of_epochs.split(), float), expected, atol=6e-5)
        assert float(together) == pytest.approx(correlation, abs=6e-3)
    # The optimizer does the same on every replica, so nothing is apart there.
    assert (numbers_after("update/hidden/kernel  ", printed.split("Correlation")[0]) == 0).all()


def test_analysis_loads_no_tensorflow(analysed):
    assert analysed[0].endswith("TensorFlow was loaded: False\n")


def test_without_a_run_the_analysis_says_how_to_write_one(tmp_path):
    command = [sys.executable, EXAMPLES / "analyse_with_dask.py", "runs/none.zarr"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "Write one: python examples/digits_under_mirrored.py runs/none.zarr" in ended.stderr


# The skewed replica.


@pytest.fixture(scope="module")
def skewed_and_fixed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("skewed")
    printed = run_example("find_the_skewed_replica.py", folder, cwd=folder)
    _, skewed, fixed = re.split("^SKEWED\n|^FIXED\n", printed, flags=re.MULTILINE)
    return skewed, fixed


def named_as_odd(printed):
    said = [line for line in printed.splitlines() if "different data" in line]
    return sorted({int(n) for line in said for n in re.findall(r"[Rr]eplicas? (\d+)", line)})


def test_the_planted_replica_is_named_and_none_other(skewed_and_fixed):
    skewed, fixed = skewed_and_fixed
    assert named_as_odd(skewed) == [2]
    assert "Furthest from the others: replica 2, by 0.8" in skewed
    assert named_as_odd(fixed) == []
    assert numbers_after("Furthest from the others:", fixed)[1] < 0.05


def test_the_loss_falls_whether_skewed_or_not(skewed_and_fixed):
    for printed in skewed_and_fixed:
        losses = numbers_after("loss of each epoch:", printed)
        assert len(losses) == 3
        assert (np.diff(losses) < -0.1).all()


def test_means_of_the_replicas_are_those_of_their_shards(skewed_and_fixed):
    images = load_digits().data
    shards = np.stack([images[r::4][:448] for r in range(4)])
    fair = shards.mean(axis=(1, 2)) / 16
    skewed = fair.copy()
    skewed[2] = (shards[2].sum() - shards[2][100, 27] + 255) / shards[2].size / 255
    for printed, expected in zip(skewed_and_fixed, (skewed, fair), strict=True):
        told = numbers_after("mean input of replicas:", printed)
        np.testing.assert_allclose(told, expected, atol=6e-4)


# The loop of two models.


def test_updates_of_a_loop_add_up_to_the_way_of_its_weights(tmp_path):
    printed = run_example("watch_a_custom_loop.py", tmp_path / "loop.zarr", cwd=tmp_path)
    run = dw.open_run(tmp_path / "loop.zarr")
    assert len(run) == 8 * 6
    assert run.summary() in printed
    for name in ("teacher", "student"):
        by_weights, by_updates = numbers_after(f"{name}'s hidden kernel went", printed)
        assert abs(by_weights) > 1e-4
        assert by_weights == pytest.approx(by_updates, abs=2e-6)
        steps = run[f"update/{name}/hidden/kernel"].per_replica("mean")
        assert by_weights == pytest.approx(float(steps.sel(replica=0).sum()), abs=2e-6)
    teacher, student = (
        numbers_after(f"loss of the {name}:", printed) for name in ("teacher", "student")
    )
    for losses, signal in ((teacher, "loss"), (student, "loss#1")):
        means = run[signal].per_replica("mean").to_numpy().reshape(6, 8, 2)
        np.testing.assert_allclose(losses, means.mean(axis=(1, 2)), atol=6e-4)
        assert (np.diff(losses) < 0).all()
    assert (student > teacher).all()


# Two workers.


def test_two_workers_write_one_run(tmp_path):
    printed = run_example("two_workers.py", tmp_path / "run.zarr", cwd=tmp_path)
    run = dw.open_run(tmp_path / "run.zarr")
    assert (run.info.workers, run.replicas, run.lost) == (2, [0, 1], 0)
    assert [(s.worker, s.steps) for s in run.segments] == [(0, 39), (1, 39)]
    for part in ("worker 0: 39 steps", "worker 1: 39 steps", run.summary()):
        assert part in printed
    losses = [
        numbers_after(f"replica {r}: 221 patients an epoch, loss", printed) for r in (0, 1)
    ]
    together = numbers_after("together: 442 patients an epoch, loss", printed)
    assert losses[0] != losses[1]
    assert float(together[0]) == pytest.approx(np.mean(losses), abs=1e-4)
    # Every patient once an epoch, on one worker or the other.
    means = run["input"].per_replica("mean").to_numpy().reshape(3, 13, 2)
    assert (abs(means[..., 0] - means[..., 1]) > 1e-3).all()
    patients = 20 * load_diabetes().data
    np.testing.assert_allclose(means.mean(axis=(1, 2)), [patients.mean()] * 3, atol=1e-6)
    merged = run["input"].merged("mean").to_numpy().reshape(3, 13)
    batches = patients.reshape(13, -1).mean(axis=1)
    np.testing.assert_allclose(merged, [batches] * 3, atol=1e-6)


# The notebook.


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """The notebook, executed, and where."""
    folder = tmp_path_factory.mktemp("notebook")
    read = nbformat.read(EXAMPLES / "first_look.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in read.cells), "it is kept without outputs"
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(read, kernel_name="python3", resources=where, timeout=240).execute()
    return read, folder / "runs"


def shown(notebook):
    """What the cells show as text: first what they print, then what they end with."""
    outputs = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    warned = [out.text for out in outputs if out.get("name") == "stderr"]
    assert not [text for text in warned if "Warning" in text or "INFO:tensorflow" in text]
    plain = [out.text for out in outputs if out.get("name") == "stdout"]
    data = [out.data for out in outputs if "data" in out]
    texts = [each for each in data if "text/plain" in each and "image/svg+xml" not in each]
    return plain + [each["text/plain"] for each in texts]


def test_the_notebook_shows_what_its_runs_hold(notebook):
    executed, folder = notebook
    summaries, opened, loss, inside, per_replica = shown(executed)
    raw, scaled = (dw.open_run(folder / f"wine_{name}.zarr") for name in ("raw", "scaled"))
    assert summaries == f"{raw.summary()}\n\n{scaled.summary()}\n"
    assert "110 steps, 2 replicas, 5 signals" in opened

    means = [run["loss"].per_replica("mean").mean("replica") for run in (raw, scaled)]
    expected = np.stack([mean.to_numpy().reshape(10, 11).mean(axis=1) for mean in means], 1)
    told = np.array([line.split()[1:] for line in loss.splitlines()[2:]], float)
    np.testing.assert_allclose(told, expected, atol=1e-6)
    assert (told[:, 0] > 10 * told[:, 1]).all(), "scaling helps, as the text says"

    values = [run["activation/hidden"].per_replica for run in (raw, scaled)]
    largest = numbers_after("largest value", inside)
    np.testing.assert_allclose(largest, [of("max").max() for of in values], rtol=1e-6)
    assert largest[0] > 100 > largest[1]
    zeros = numbers_after("zeros", inside)
    # A batch of 16 rows, and as many units.
    shares = [float(of("zeros").sum()) / (110 * 16 * 16) for of in values]
    np.testing.assert_allclose(zeros, shares, atol=1e-6)
    assert zeros[0] > zeros[1] + 0.1

    told = np.array([line.split()[1:] for line in per_replica.splitlines()[2:]], float)
    hidden = scaled["activation/hidden"].per_replica("mean").to_numpy()
    np.testing.assert_allclose(told, hidden.reshape(10, 11, 2).mean(axis=1), atol=1e-6)


def test_the_notebook_draws_the_share_of_zeros(notebook):
    executed, folder = notebook
    mime = "application/vnd.plotly.v1+json"
    outputs = [out for cell in executed.cells for out in cell.get("outputs", [])]
    (figure,) = [out.data[mime] for out in outputs if mime in out.get("data", {})]
    hidden = dw.open_run(folder / "wine_raw.zarr")["activation/hidden"]
    shares = hidden.per_replica("zeros") / hidden.per_replica("count")
    drawn = {trace["name"]: trace["y"] for trace in figure["data"] if trace.get("name")}
    for replica in (0, 1):
        packed = drawn[f"replica {replica}"]
        values = np.frombuffer(base64.b64decode(packed["bdata"]), packed["dtype"])
        np.testing.assert_allclose(values, shares.sel(replica=replica), atol=1e-6)


# All of them.


def test_the_table_of_examples_has_each():
    table = re.findall(r"^\| `([^`]+)`", (EXAMPLES / "README.md").read_text(), re.MULTILINE)
    there = [p for p in EXAMPLES.iterdir() if p.suffix in (".py", ".ipynb")]
    assert sorted(table) == sorted([*(p.name for p in there), "programs/"])
