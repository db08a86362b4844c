"""Kill watched trainings at random moments, resume them, and compare with one never killed.

    python tests/training/killed_trainings.py [--count 200] [--seed 0] [--first 0] [--minutes 9]

A chain is a training that is killed (SIGKILL) one to five times, and resumed from its last
checkpoint each time, until it ends. After each kill what was acknowledged has to be there; in
the end every row and merged row of every phase equals that of a training that was never
killed, no step is there twice, and those that are missing are declared. Prints what the kills
met, and ends with 1 if there was a fault. ``--seed 3 --first 17 --count 1`` tries chain 17
again: the same moments, as far as the machine allows.
"""

from __future__ import annotations

import collections
import faulthandler
import hashlib
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import trials
from killed_comparison import what_is_acknowledged, what_is_wrong, what_was_lost

import distwatch as dw
from distwatch.testing import mirrored, virtual_devices

ROWS, BATCH, EPOCHS = 78, 8, 4


@dataclass(frozen=True)
class Setup:
    """How the trainings of a chain are made."""

    replicas: int = 1
    steps_per_execution: int = 1
    window: int = 4
    drain_every: float | None = 0.02
    schedule: int = 1
    validation: bool = True
    backup_first: bool = True
    signals: tuple[str, ...] = ("activations", "gradients", "loss", "tensors")


SETUPS = [
    Setup(),
    Setup(replicas=2, window=64, drain_every=0.05),
    Setup(steps_per_execution=3, window=8, schedule=2, backup_first=False),
    Setup(window=3, drain_every=None, signals=("updates", "weights", "inputs")),
    Setup(replicas=2, window=5, validation=False, backup_first=False),
]


class Backup(keras.callbacks.BackupAndRestore):
    """Keras's own, whose weights and epoch go together: a kill between both leaves the last.

    Keras writes one file after the other, so that such a kill would train an epoch twice.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(exist_ok=True)
        saved = sorted(self.folder.glob("epoch-*"))
        super().__init__(str(saved[-1] if saved else self.folder / "none"))

    def _save_model(self):
        fresh = self.folder / f"fresh-{os.getpid()}"
        self._weights_path = str(fresh / "latest.weights.h5")
        self._training_metadata_path = str(fresh / "training_metadata.json")
        fresh.mkdir()
        super()._save_model()
        fresh.rename(self.folder / f"epoch-{self._current_epoch:04}")

    def on_train_end(self, logs=None):
        pass  # it stays, as a kill after this would begin anew without it


class Telling(keras.callbacks.Callback):
    """Says over a pipe what happens, and what the watching has committed."""

    def __init__(self, told, watch):
        super().__init__()
        self.told, self.watch = told, watch

    def say(self, what):
        self.told.send((what, self.watch.status.committed))

    def on_train_begin(self, logs=None):
        self.say("beginning")

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.004)  # a model that is so small takes no time
        self.say("training")

    def on_test_batch_end(self, batch, logs=None):
        self.say("validation")

    def on_epoch_end(self, epoch, logs=None):
        self.say("the end of an epoch")

    def on_train_end(self, logs=None):
        self.say("the end")


def selectors_of(setup):
    """Those of a setup, with histograms where there can be."""
    made = {
        "activations": lambda: dw.activations(statistics=[dw.histogram(accuracy=0.2)]),
        "gradients": lambda: dw.gradients(statistics=[dw.histogram(accuracy=0.2)]),
        "tensors": lambda: dw.tensors("hidden", every=2),
        "loss": dw.loss,
        "updates": dw.updates,
        "weights": lambda: dw.weights(reference="previous"),
        "inputs": dw.inputs,
    }
    return [made[name]() for name in setup.signals]


def train(setup, folder, told):
    """Train from the last checkpoint on, until the end or a kill."""
    warnings.simplefilter("ignore")
    # Of a process that ends by itself, stderr says where it was.
    faulthandler.enable()
    virtual_devices(2)
    keras.utils.set_random_seed(3)
    rng = np.random.default_rng(5)
    x = (rng.normal(size=(ROWS, 6)) * np.linspace(1, 3, ROWS)[:, None] + 2).astype("float32")
    inputs = [keras.Input((6,)), keras.layers.Dense(4, "tanh", name="hidden")]
    with mirrored(setup.replicas).scope():
        model = keras.Sequential([*inputs, keras.layers.Dense(2, name="head")])
        model.compile("adam", "mse", steps_per_execution=setup.steps_per_execution)
    watch = dw.Watch(
        folder / "run.zarr",
        signals=selectors_of(setup),
        resume=True,
        window=setup.window,
        drain_every=setup.drain_every,
        schedule=dw.every(setup.schedule),
        phases=["train", "test"] if setup.validation else ["train"],
    )
    callbacks = [Backup(folder / "backup"), watch]
    model.fit(
        x, x[:, :2], batch_size=BATCH, epochs=EPOCHS, shuffle=False, verbose=0,
        validation_data=(x[:20], x[:20, :2]) if setup.validation else None,
        callbacks=[*callbacks[:: 1 if setup.backup_first else -1], Telling(told, watch)],
    )  # fmt: skip
    weights = b"".join(
        np.asarray(v).tobytes() for v in [*model.weights, *model.optimizer.variables]
    )
    told.send(("ended", hashlib.sha256(weights).hexdigest()))


@dataclass
class Start:
    """One process of a chain, and what it said last."""

    where: str = "before the training"
    #: The process's exit code.
    code: int | None = None
    committed: int = 0
    weights: str | None = None
    said: list[str] = field(default_factory=list)

    def listen(self, here, until=None):
        """Take in what it says, until a number of words or its end."""
        try:
            while until is None or len(self.said) < until:
                self.where, value = here.recv()
                self.said.append(self.where)
                if self.where == "ended":
                    self.weights = value
                else:
                    self.committed = value
        except (EOFError, OSError):
            pass


def started(context, setup, folder, kill=None):
    """Train, and kill after so many words and seconds, if ``kill`` says them."""
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=train, args=(setup, folder, there))
    process.start()
    there.close()
    start = Start()
    if kill is not None:
        words, seconds = kill
        start.listen(here, words)
        process.join(seconds)
        process.kill()
    start.listen(here)
    process.join()
    start.code = process.exitcode
    return start


def ended(context, setup, folder, met):
    """Train to the end. On a busy machine TensorFlow crashes now and then, unwatched as well,
    when Keras gives up an iterator that prefetches: that is one kill more."""
    start = started(context, setup, folder)
    for _ in range(3):
        if start.code == -signal.SIGSEGV:
            met[f"crashes of TensorFlow: {start.where}"] += 1
            start = started(context, setup, folder)
    return start


def moment(rng):
    """After how many words, and how many seconds then, to kill."""
    words = rng.choice([0, *(rng.randint(1, most) for most in (4, 12, 25, 60, 60))])
    return words, rng.uniform(0, 3.0 if words == 0 else 0.03)


def chain(context, setup, folder, whole, *, rng, met):
    """The faults of one chain; ``whole`` is the folder and the weights of one never killed."""
    faults = []
    for number in range(rng.randint(1, 5)):
        start = started(context, setup, folder, moment(rng))
        met[f"kills: {start.where}"] += 1
        fault = what_is_acknowledged(folder / "run.zarr", start.committed)
        faults += [f"kill {number}, {start.where}: {fault}"] if fault else []
        if start.weights is not None:
            break
    last = start if start.weights is not None else ended(context, setup, folder, met)
    if last.weights != whole[1]:
        how = f"(exit code {last.code}, after {last.where})"
        faults.append(f"ended with {last.weights}, expected {whole[1]} {how}")
    phases = ["train", "test"] if setup.validation else ["train"]
    for phase in phases:
        faults += what_is_wrong(folder / "run.zarr", whole[0] / "run.zarr", phase)
        met["missing steps, all declared"] += what_was_lost(folder / "run.zarr", phase)
    return faults


def harness(count, seed, first=0, minutes=None):
    """How many kills met what, and what was found wrong."""
    context = trials.forking(__file__)
    met, wrong = collections.Counter(), trials.Faults()
    wholes, begun = {}, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(first, first + count):
            if minutes is not None and time.monotonic() > begun + 60 * minutes:
                break
            rng = random.Random(f"{seed}/{number}")
            setup = rng.choice(SETUPS)
            if setup not in wholes:
                path = Path(folder) / f"whole-{len(wholes)}"
                path.mkdir()
                whole = started(context, setup, path)
                if whole.weights is None:
                    wrong.append(f"never killed, ended with exit code {whole.code}: {setup}")
                wholes[setup] = path, whole.weights
            path = Path(folder) / f"chain-{number}"
            path.mkdir()
            faults = chain(context, setup, path, wholes[setup], rng=rng, met=met)
            met["chains"] += 1
            if faults:
                said = "\n  ".join(faults[:4])
                wrong.append(f"--seed {seed} --first {number} --count 1: {setup}\n  {said}")
    return met, wrong


if __name__ == "__main__":
    # Processes of this program find it by its name.
    import killed_trainings

    sys.exit(trials.main(__doc__, killed_trainings.harness, count=200, **trials.NUMBERED))
