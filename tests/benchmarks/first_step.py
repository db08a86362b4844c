"""How long the first step takes, which every run waits for: watched over unwatched.

    python tests/benchmarks/first_step.py [--models transformer] [--rounds 5]
                                          [--signals usual,optimizer,everything]

Each case is a process of its own, from the call of ``fit`` to the end of its only step; the
cases of a round take turns. The figure is the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

UNWATCHED = "unwatched"


def seconds_of(model_name: str, signals: str, folder: str) -> float:
    """Train one step, in this process."""
    import keras
    import numpy as np
    from step_time import MODELS, watched_by

    import distwatch as dw

    keras.utils.set_random_seed(7)
    model, shape, batch, _ = MODELS[model_name]()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    rng = np.random.default_rng(3)
    x = rng.normal(0.5, 1.0, (batch, *shape)).astype("float32")
    y = rng.integers(0, 10, batch)
    callbacks = []
    if signals != UNWATCHED:
        callbacks = [dw.Watch(Path(folder) / "run.zarr", signals=watched_by(signals, x))]
    begun = time.perf_counter()
    model.fit(x, y, batch_size=batch, verbose=0, callbacks=callbacks)
    return time.perf_counter() - begun


def in_a_process(model_name: str, signals: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--one", model_name, signals, folder]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="transformer")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--signals", default="usual,optimizer,everything")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(seconds_of(*chosen.one))
        return
    cases = [UNWATCHED, *chosen.signals.split(",")]
    print(f"{'model':11} {'signals':12} {'seconds':>8} {'watched/unwatched':>18}")
    for model_name in chosen.models.split(","):
        seconds: dict[str, list[float]] = {case: [] for case in cases}
        for round_ in range(chosen.rounds):
            for case in cases if round_ % 2 else cases[::-1]:
                seconds[case].append(in_a_process(model_name, case))
        for case in cases:
            ratios = [b / a for a, b in zip(seconds[UNWATCHED], seconds[case], strict=True)]
            print(
                f"{model_name:11} {case:12} {statistics.median(seconds[case]):8.1f} "
                f"{statistics.median(ratios):18.2f}",
                flush=True,
            )


if __name__ == "__main__":
    sys.exit(main())
