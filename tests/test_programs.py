"""The programs of examples/programs, in the manner of Keras's own, train alike if watched."""

import importlib
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from trainings import same_weights

import distwatch as dw
from distwatch.errors import KnownTrapWarning

pytestmark = pytest.mark.slow

PROGRAMS = Path(__file__).parent.parent / "examples" / "programs"
SEEDS = "every replica draws the same random numbers"

#: Batches of an epoch, some of what is watched, and what each is warned of on two replicas.
EXPECTED = {
    "digits_convnet": (29, {"activation/conv2d_1", "update/dense/kernel"}, [SEEDS]),
    "text_transformer": (
        30,
        {"activation/block/attention/query", "gradient_local/block/attention/key/bias"},
        [SEEDS],
    ),
    "autoencoder": (29, {"activation_input/decoder", "gradient/painter/kernel"}, []),
    "gan": (29, {"activation/discriminator#1", "activation/generator/digit"}, []),
    "batchnorm_dropout": (
        29,
        {"activation/norm", "weight/norm/moving_mean"},
        ["the moving statistics of BatchNormalization (norm, norm_again)", SEEDS],
    ),
    "masked_lstm": (25, {"activation/lstm", "activation/embedding", "input"}, []),
}


@pytest.fixture(autouse=True)
def programs_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(PROGRAMS)


def test_none_is_left_out():
    names = {path.stem for path in PROGRAMS.glob("*.py")}
    assert names == {*EXPECTED, "running"}


@pytest.mark.parametrize("name", EXPECTED)
def test_watched_it_trains_alike(name, tmp_path):
    batches, signals, traps = EXPECTED[name]
    program = importlib.import_module(name)
    alone, history = program.train(None, replicas=2, watched=False)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", KnownTrapWarning)
        watched, same_history = program.train(tmp_path / "run.zarr", replicas=2)
    assert same_weights(alone, watched)
    assert same_history == history
    said = re.findall("^- (.*)", "\n".join(str(w.message) for w in warned), re.MULTILINE)
    assert len(said) == len(traps)
    assert all(line.startswith(trap) for line, trap in zip(said, traps, strict=True))

    run = dw.open_run(tmp_path / "run.zarr")
    assert signals <= set(run.signals)
    for signal in signals:
        rows = run[signal].per_replica("count")
        assert rows.shape == (batches, 2)
        # The first batch has nothing to be compared with.
        assert np.isfinite(rows.to_numpy()[1:]).all()


def test_as_a_program(tmp_path, capsys, monkeypatch):
    gan = importlib.import_module("gan")
    running = sys.modules["running"]
    arguments = ["--store", str(tmp_path / "run.zarr"), "--epochs", "2"]
    running.run(gan.__doc__, gan.train, gan.show, arguments)
    out = capsys.readouterr().out
    assert "58 steps, 10 signals on 1 replica" in out
    assert re.search(
        r"verdict on forged digits: [+-]\d\.\d\d at first, [+-]\d\.\d\d later", out
    )
