"""Truth, untouched training and cost on this machine's GPUs.

    python tests/gpu_check.py [--cpu N] [--rounds 9]

Takes all GPUs that TensorFlow sees; a single one is split into two logical ones, so that
there are replicas. ``--cpu N`` tries the check itself, on N virtual CPUs. Prints one line a
check and ends with 0 if all of them held, 1 if one did not, 2 if there is no GPU.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import keras
import numpy as np
import tensorflow as tf
from step_time import measure
from trainings import Ear, compile_model, fit, same_weights, unlike_rows

import distwatch as dw
from distwatch.testing import virtual_devices

layers = keras.layers

#: Memory of each of two logical GPUs on one card, in MB.
_HALF = 2048

#: Watched over unwatched step time that is still called next to no cost.
_ALLOWED = {"mlp": 1.30, "wide": 1.10, "cnn": 1.30}


def devices(cpus: int) -> list[str]:
    """What the replicas run on; none where there is no GPU."""
    if cpus:
        return virtual_devices(cpus)
    cards = tf.config.list_physical_devices("GPU")
    if len(cards) == 1:
        half = tf.config.LogicalDeviceConfiguration(memory_limit=_HALF)
        tf.config.set_logical_device_configuration(cards[0], [half, half])
    return [device.name for device in tf.config.list_logical_devices("GPU")]


def strategies(names: list[str]) -> Iterator[tf.distribute.Strategy]:
    yield tf.distribute.OneDeviceStrategy(names[0])
    reductions = None
    if "CPU" in names[0]:  # as distwatch.testing.mirrored does
        reductions = tf.distribute.ReductionToOneDevice()
    yield tf.distribute.MirroredStrategy(names, cross_device_ops=reductions)


def trained(strategy: Any, *callbacks: Any, spe: int = 1, jit: bool = False) -> Any:
    keras.utils.clear_session()
    keras.utils.set_random_seed(6)
    ear = Ear(name="ear")
    recorded = [] if jit else [ear]  # XLA compiles no ear
    with strategy.scope():
        stack = [layers.Reshape((4, 3)), layers.Conv1D(16, 3, activation="relu", name="conv")]
        model = keras.Sequential(
            [keras.Input((12,)), *stack, *recorded, layers.Flatten(), layers.Dense(4)]
        )
        compile_model(model, spe=spe, jit=jit)
    replicas = strategy.num_replicas_in_sync
    x, y = unlike_rows(16 * replicas * 3 - replicas)
    fit(model, x, y, *callbacks, batch=16 * replicas, epochs=3)
    return model, ear


def truth(strategy: Any, folder: Path) -> str:
    """Every row against NumPy, on what the model itself put out."""
    _, ear = trained(strategy, dw.Watch(folder / "truth.zarr", window=4))
    run = dw.open_run(folder / "truth.zarr")["activation/conv"]
    worst = 0.0
    for replica, batches in ear.recorded.items():
        for step in range(1, len(batches)):
            rows = min(len(batches[step]), len(batches[step - 1]))
            delta = batches[step][:rows].astype(np.float64) - batches[step - 1][:rows]
            for name, exact in (("mean", delta.mean()), ("max", delta.max())):
                got = float(run.per_replica(name).sel(replica=replica, step=step))
                worst = max(worst, abs(got - exact) / np.abs(delta).mean())
    compared = sum(len(batches) - 1 for batches in ear.recorded.values())
    assert compared == 8 * strategy.num_replicas_in_sync, f"{compared} rows compared"
    assert worst < 1e-5, f"off by {worst:.1e} of the mean change"
    return f"{compared} rows, at most {worst:.1e} of the mean change off"


def deterministic(wanted: bool) -> None:
    """Have a GPU add up in the same order each time, which it does not by itself.

    Keras leaves XLA out under it, and XLA has a flag of its own.
    """
    keras.utils.set_random_seed(0)
    if wanted:
        tf.config.experimental.enable_op_determinism()
    else:
        # TensorFlow has no public way back.
        from tensorflow.python.framework.config import disable_op_determinism

        disable_op_determinism()


def untouched(strategy: Any, folder: Path) -> str:
    """Weights bit by bit, watched against unwatched."""
    tried = []
    for spe, jit in ((1, False), (7, False), (1, True)):
        if jit and strategy.num_replicas_in_sync > 1:
            continue  # Keras cannot.
        deterministic(not jit)
        alone, _ = trained(strategy, spe=spe, jit=jit)
        watch = dw.Watch(folder / f"untouched-{spe}-{jit}.zarr")
        watched, _ = trained(strategy, watch, spe=spe, jit=jit)
        name = f"steps_per_execution={spe}{', XLA' * jit}"
        assert same_weights(alone, watched), f"weights differ with {name}"
        assert watch.status.lost == 0, f"rows lost with {name}"
        tried.append(name)
    return "; ".join(tried)


def cost(strategy: Any, folder: Path, rounds: int) -> str:
    """Watched over unwatched step time."""
    deterministic(False)
    told, dear = [], []
    for name, allowed in _ALLOWED.items():
        ratio, ms = measure(name, strategy, rounds, folder, "usual")
        told.append(f"{name} {ratio:.2f} ({ms:.2f} ms)")
        if ratio > allowed:
            dear.append(f"{name} {ratio:.2f} > {allowed}")
    assert not dear, f"{', '.join(dear)}; all: {', '.join(told)}"
    return ", ".join(told)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cpu", type=int, default=0, help="virtual CPUs instead of GPUs")
    parser.add_argument("--rounds", type=int, default=9, help="of the cost; 0 leaves it out")
    chosen = parser.parse_args(arguments)
    names = devices(chosen.cpu)
    if not names:
        print("No GPU is visible to TensorFlow here, so nothing was verified.")
        return 2
    checks: dict[str, Callable[[Any, Path], str]] = {"truth": truth, "untouched": untouched}
    if chosen.rounds:
        checks["cost"] = lambda strategy, folder: cost(strategy, folder, chosen.rounds)
    print(f"TensorFlow {tf.__version__}, Keras {keras.__version__}, on {', '.join(names)}")
    failed = 0
    for strategy in strategies(names):
        for name, check in checks.items():
            with tempfile.TemporaryDirectory() as folder:
                try:
                    outcome = f"held: {check(strategy, Path(folder))}"
                except AssertionError as error:
                    failed += 1
                    outcome = f"FAILED: {error}"
            print(
                f"{name:10} on {strategy.num_replicas_in_sync} replica(s): {outcome}",
                flush=True,
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
