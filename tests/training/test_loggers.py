"""Loggers that people have are given what ``log_to_keras`` names, wherever they stand."""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from commands import Ended, start

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parent / "beside_a_logger.py"


def trained(tool, place, folder):
    if find_spec(tool) is None:
        if "CI" in os.environ:
            pytest.fail(f"{tool} is not installed, and CI has to try it")
        pytest.skip(f"{tool} is not installed: pip install 'distwatch[loggers]'")
    ended = Ended(start([sys.executable, PROGRAM, tool, place], folder), timeout=300)
    assert ended.code == 0, ended.err
    return json.loads(ended.out.splitlines()[-1])


@pytest.fixture(scope="module")
def unwatched(tmp_path_factory):
    """Weights of trainings that the tools log alone."""
    folder = tmp_path_factory.mktemp("unwatched")
    return {tool: trained(tool, "unwatched", folder / tool) for tool in ("mlflow", "wandb")}


@pytest.mark.parametrize("place", ["first", "last"])
@pytest.mark.parametrize("tool", ["mlflow", "wandb"])
def test_it_logs_what_is_named_and_the_training_is_the_same(tool, place, unwatched, tmp_path):
    watched = trained(tool, place, tmp_path / "watched")
    assert watched["weights"] == unwatched[tool]["weights"]
    key = "activation/hidden/l2"
    assert watched["given"][key] == pytest.approx(watched["recorded"], rel=1e-6)
    assert watched["recorded"] > 1
    assert watched["given"]["loss"] == unwatched[tool]["given"]["loss"]
    assert key not in unwatched[tool]["given"]
