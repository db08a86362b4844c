"""Two real processes train together on this machine, and write one run."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_up import scalars

import distwatch as dw

pytestmark = pytest.mark.slow

WORKER = Path(__file__).parents[1] / "workers" / "worker.py"
#: Rows, batch and epochs of the worker's data: 6 batches an epoch, the last one short.
STEPS, WINDOW, KILLED_AT = 12, 4, 7


def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def train_together(how, folder):
    """Run both workers to their ends; returns exit codes and what they say."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for index in range(2):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment = {
            **os.environ,
            "TF_CONFIG": json.dumps(task),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "",
        }
        command = [sys.executable, WORKER, how, folder]
        with (folder / f"worker-{index}.log").open("w") as log:
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    try:
        codes = [process.wait(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    logs = [(folder / f"worker-{index}.log").read_text() for index in range(2)]
    told = [folder / f"worker-{index}.json" for index in range(2)]
    return codes, logs, [json.loads(f.read_text()) if f.exists() else None for f in told]


@pytest.fixture(scope="module", params=["loop", "fit"])
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    codes, logs, told = train_together(request.param, folder)
    assert codes == [0, 0], logs
    arrays = [dict(np.load(folder / f"worker-{index}.npz")) for index in range(2)]
    return dw.open_run(folder / "run.zarr"), arrays, told


def recorded(arrays, replica):
    """The batches that passed the ear behind the hidden layer on a replica."""
    batches = [arrays[replica][f"heard_{replica}_{i}"] for i in range(STEPS)]
    return [batch.astype(np.float64) for batch in batches]


def test_every_row_of_both_workers_is_there(trained):
    run, _, told = trained
    assert (run.replicas, run.info.workers, run.lost) == ([0, 1], 2, 0)
    # Activations, gradients and loss are in three tables, in which a step counts each time.
    assert [each["steps"] for each in told] == [3 * STEPS, 3 * STEPS]
    rows = run.to_xarray()
    np.testing.assert_array_equal(rows.step, np.arange(STEPS))
    np.testing.assert_array_equal(rows.epoch, np.repeat([0, 1], STEPS // 2))
    np.testing.assert_array_equal(rows.iteration, np.arange(1, STEPS + 1))
    assert not rows["count"].isnull().any()
    assert "wrote only" not in run.summary()


def test_each_worker_acts_on_what_it_finds(trained):
    """Of its own replicas, on a thread of its own; both say so in the run."""
    run, _, _ = trained
    lines = [
        [json.loads(line) for line in file.read_text().splitlines()]
        for file in sorted(Path(run.path).parent.glob("found-*.jsonl"))
    ]
    assert [{each["worker"] for each in worker} for worker in lines] == [{0}, {1}]
    for worker in lines:
        (extent,) = [each for each in worker if each["kind"] == "extent"]
        assert (extent["steps"], extent["text"].split(",")[0]) == (STEPS, f"{STEPS} steps")
        assert "on 1 replica" in extent["text"]
    done = [each["what"] for each in run.changes if each["by"] == "rule"]
    assert done == ["log_json"] * sum(map(len, lines))


def test_rows_are_right_and_merged_over_workers(trained):
    run, arrays, _ = trained
    hidden = run["activation/hidden"]
    each = [recorded(arrays, replica) for replica in (0, 1)]
    for step in range(1, STEPS):
        deltas = []
        for replica in (0, 1):
            now, before = each[replica][step], each[replica][step - 1]
            common = min(len(now), len(before))
            deltas.append((now[:common] - before[:common]).ravel())
            expect = statistics_of(deltas[-1])
            for name, value in expect.items():
                got = hidden.per_replica(name).sel(step=step, replica=replica)
                assert float(got) == pytest.approx(value, rel=2e-6, abs=2e-7), (step, name)
        # Rows of unlike means: a merge of their means alone would be another number.
        for name, value in statistics_of(np.concatenate(deltas)).items():
            got = hidden.merged(name).sel(step=step)
            assert float(got) == pytest.approx(value, rel=2e-6, abs=2e-7), (step, name)


def statistics_of(values):
    return {
        "count": values.size,
        "mean": values.mean(),
        "std": values.std(),
        "min": values.min(),
        "max": values.max(),
        "l2": np.sqrt((values**2).sum()),
    }


def test_each_worker_writes_event_files_of_its_own_replicas(trained):
    run, _, _ = trained
    logs = run.path.parent / "logs"
    assert sorted(path.name for path in logs.iterdir()) == ["replica-0", "replica-1"]
    for replica in (0, 1):
        found = scalars(logs / f"replica-{replica}")["activation/hidden/l2"]
        l2 = run["activation/hidden"].per_replica("l2").sel(replica=replica).dropna("step")
        steps, values = zip(*found, strict=True)
        np.testing.assert_array_equal(steps, l2.step)
        np.testing.assert_array_equal(np.float32(values), l2.values.astype(np.float32))


def test_workers_are_given_other_rows_and_agree_on_the_weights(trained):
    run, arrays, _ = trained
    weights = [sorted(name for name in each if name.startswith("weight")) for each in arrays]
    assert len(weights[0]) == 4
    for name in weights[0]:
        np.testing.assert_array_equal(arrays[0][name], arrays[1][name])
    losses = run["loss"].per_replica("mean")
    assert (abs(losses.sel(replica=0) - losses.sel(replica=1)) > 1e-3).all()
    # The applied gradient is one and the same, and looked at on the first replica.
    local = run["gradient_local/hidden/kernel"].per_replica("mean").mean("replica")
    applied = run["gradient/hidden/kernel"].merged("mean")
    np.testing.assert_allclose(local, applied, rtol=1e-4, atol=1e-7)


def test_a_killed_worker_leaves_the_others_rows(tmp_path):
    codes, logs, told = train_together("killed", tmp_path)
    assert codes[1] == -signal.SIGKILL, logs[1]
    # The other one's training fails for want of its partner, in TensorFlow's own words.
    assert codes[0] == 1, logs[0]
    assert "Unavailable" in told[0]["error"]
    run = dw.open_run(tmp_path / "run.zarr")
    rows = run["activation/hidden"].per_replica("count")
    assert list(rows.sel(replica=0)[:KILLED_AT] > 0) == [False] + [True] * (KILLED_AT - 1)
    # What worker 1 had committed when it was killed: one window.
    there = ~rows.sel(replica=1).isnull()
    np.testing.assert_array_equal(there, rows.step < WINDOW)
    alone = run["activation/hidden"].merged("count").sel(step=WINDOW)
    assert float(alone) == float(rows.sel(replica=0, step=WINDOW))
    assert "Worker 1 (replica 1) wrote only 4 of" in run.summary()


def test_the_first_workers_names_reach_the_other(tmp_path):
    codes, logs, told = train_together("again", tmp_path)
    assert codes == [0, 0], logs
    paths = [Path(path) for path in told[0]["paths"]]
    assert told[1]["paths"] == told[0]["paths"]
    assert [path.parent.name for path in paths[:2]] == ["runs", "runs"]
    assert [path.name for path in paths[2:]] == ["run.zarr", "run-2.zarr"]
    assert all("-script_of_0" in path.name for path in paths[:2])
    assert len(set(paths)) == 4
    for path in paths:
        run = dw.open_run(path)
        assert (len(run), run.replicas, run.lost) == (STEPS // 2, [0, 1], 0)


def test_both_change_their_schedules_and_stop_after_the_same_step(tmp_path):
    codes, logs, told = train_together("stopped", tmp_path)
    assert codes == [0, 0], logs
    assert [each["stopped"] for each in told] == [True, True]
    done = told[0]["batches"]
    assert told[1]["batches"] == done
    # Of 600 steps. Looks are 16 executions apart. Worker 1 asks after 20 or more, so at look
    # 32; the first worker plans at once at the earliest, and decides at look 48 what is done at
    # look 64.
    assert done in range(64, 600, 16)
    run = dw.open_run(tmp_path / "run.zarr")
    assert (len(run), run.lost) == (done, 0)
    looked_at = run["input"].per_replica("count").dropna("step", how="all")
    (change, stop) = run.changes
    assert (change["what"], change["by"], change["signals"]) == ("set", "call", ["input"])
    assert (stop["what"], stop["step"], "Twenty batches" in stop["why"]) == ("stop", done, True)
    assert 5 < change["step"] < stop["step"]
    before = [*range(change["step"])]
    after = [step for step in range(change["step"], done) if step % 7 == 0]
    assert [*looked_at.step.values] == before + after
    assert not looked_at.isnull().any()


def test_a_refusal_reaches_both_workers(tmp_path):
    (tmp_path / "run.zarr").mkdir()
    (tmp_path / "run.zarr" / "thesis.txt").write_text("not a run")
    codes, logs, told = train_together("loop", tmp_path)
    assert codes == [1, 1], logs
    assert "is no distwatch run, so it is left alone" in told[0]["error"]
    assert "refused by worker 0" in told[1]["error"]


def test_fit_is_refused_without_the_mend(tmp_path):
    codes, logs, told = train_together("unfixed", tmp_path)
    assert codes == [1, 1], logs
    for each in told:
        assert each["error"].startswith("UnsupportedTrainingError")
        assert "distwatch.compat.multiworker_fit()" in each["error"]
