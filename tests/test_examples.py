"""The examples run, and what they print is what their runs hold."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import distwatch as dw

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def printed_and_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    ended = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            EXAMPLES / "three_textbook_ways.py",
            "--folder",
            folder,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout, folder


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
