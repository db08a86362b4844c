"""Keras's programs, which know nothing of distwatch, train alike under ``distwatch run``.

Each of examples/programs/unwatched is run by Python alone, and by ``distwatch run`` with files
of configs/, on one replica and on two. What it prints (metrics to the last digit) and what it
saves (weights, optimizers, seeds) is compared bit by bit. The slow suite has each file with two
of the programs; ``--whole-matrix`` tries all of them with all.
"""

import functools
import itertools
import re
import sys
from collections import Counter
from pathlib import Path

import h5py
import pytest
from commands import BIN, Ended, start

import distwatch as dw

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "examples" / "programs" / "unwatched"
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))

#: What is tried by the slow suite: each file with two of the programs.
SOME = [
    ("vae", 1, "minimal"),
    ("vae", 2, "gradients"),
    ("wgan_gp", 1, "everything"),
    ("wgan_gp", 2, "every_10th_step"),
    ("siamese", 1, "production"),
    ("siamese", 2, "tensorboard"),
    ("ddim", 1, "gradients"),
    ("ddim", 2, "minimal"),
    ("transformer", 1, "everything"),
    ("transformer", 2, "production"),
    ("gpt", 1, "tensorboard"),
    ("gpt", 2, "every_10th_step"),
]

#: Batches of each fit that a program calls.
STEPS = {
    "vae": [32],
    "wgan_gp": [24],
    "siamese": [16, 32],
    "ddim": [24],
    "transformer": [28],
    "gpt": [24],
}

#: Files by which only every 10th step is recorded.
SPARSE = ("production", "every_10th_step")

#: Some of what each file asks for, and each of these programs has.
KINDS = {
    "everything": {"activation", "gradient", "gradient_local", "update", "weight", "input"},
    "gradients": {"gradient", "gradient_local", "update", "weight", "input"},
    "minimal": {"activation"},
    "production": {"activation", "gradient", "gradient_local", "update"},
    "every_10th_step": {"activation"},
    "tensorboard": {"activation", "update"},
}

ALL = list(itertools.product(STEPS, (1, 2), CONFIGS))


def pytest_generate_tests(metafunc):
    if "config" in metafunc.fixturenames:
        chosen = ALL if metafunc.config.getoption("--whole-matrix") else SOME
        metafunc.parametrize(("program", "replicas", "config"), chosen)


class Training:
    """A program that is running in a folder of its own, and how it ends."""

    def __init__(self, program, replicas, folder, before=(sys.executable,)):
        self.folder = folder
        save = ["--replicas", replicas, "--save", "learned.weights.h5"]
        self.process = start([*before, FOLDER / f"{program}.py", *save], folder)

    @functools.cached_property
    def ended(self):
        return Ended(self.process, timeout=600)

    @functools.cached_property
    def learned(self):
        arrays = {}

        def keep(name, there):
            if isinstance(there, h5py.Dataset):
                arrays[name] = there[()]

        with h5py.File(self.folder / "learned.weights.h5") as file:
            file.visititems(keep)
        return arrays


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Each program without distwatch: first beside its first watched run, again if need be."""

    @functools.cache
    def training(program, replicas, again):
        return Training(program, replicas, tmp_path_factory.mktemp(program))

    return training


def own_lines(watched):
    """What a program prints, without what log_to_keras has added to the history of its fit."""
    added = re.compile(r"(loss|update/.+)/(mean|ratio): \[")
    return [line for line in watched.ended.out.splitlines() if not added.match(line)]


def agree(unwatched, watched):
    return unwatched.ended.code == 0 and unwatched.ended.out.splitlines() == own_lines(watched)


def test_none_is_left_out():
    shared = {"attention", "setting_up"}
    assert {path.stem for path in FOLDER.glob("*.py")} == {*STEPS, *shared}
    assert {case[:2] for case in SOME} == {case[:2] for case in ALL}
    assert Counter(config for *_, config in SOME) == dict.fromkeys(CONFIGS, 2)


def test_watched_it_trains_alike(program, replicas, config, alone, tmp_path):
    run = [BIN / "distwatch", "run", "--config", ROOT / "configs" / f"{config}.yaml"]
    # Once in a hundred runs, watched or alone, the last digit of one mean loss is another (and
    # the weights are the same), and TensorFlow crashed in one. So either kind has three tries:
    # what watching changes, it changes in all of them.
    for again in range(3):
        unwatched = alone(program, replicas, again)
        command = [*run, "--store", "runs"]
        watched = Training(program, replicas, tmp_path / f"watched-{again}", command)
        if agree(unwatched, watched):
            break
    assert watched.ended.code == unwatched.ended.code == 0, watched.ended.err
    assert own_lines(watched) == unwatched.ended.out.splitlines()
    # Nothing but what distwatch says.
    assert unwatched.ended.err == ""
    assert "Traceback" not in watched.ended.err
    assert len(unwatched.learned) > 20
    assert watched.learned.keys() == unwatched.learned.keys()
    for name, array in unwatched.learned.items():
        assert watched.learned[name].tobytes() == array.tobytes(), name

    said = [line for line in watched.ended.err.splitlines() if line.startswith("distwatch: ")]
    assert [line for line in said if "not watched" in line] == []
    runs = [dw.open_run(path) for path in sorted((watched.folder / "runs").iterdir())]
    every = 10 if config in SPARSE else 1
    assert len(runs) == len(STEPS[program])
    for read, steps in zip(runs, STEPS[program], strict=True):
        due = len(range(0, steps, every))
        # A budget of the overhead may look at fewer, which it declares.
        assert len(read) == due or (0 < len(read) < due and len(read.changes))
        assert (read.ended, read.lost, read.replicas) == ("closed", 0, list(range(replicas)))
        kinds = {name.partition("/")[0] for name in read.signals}
        assert KINDS[config] <= kinds
