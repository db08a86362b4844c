"""Do two workers write one run? Two processes on this machine train together and show it.

    python examples/two_workers.py [RUN]

The script starts itself twice, once for each worker, as the scheduler of a cluster would start
it on two machines: with a TF_CONFIG that lists all workers and says which one this is. Each
worker writes the rows of its own replica into the same run (between machines: into a folder or
bucket that they share), and the opened run contains both.

Look at the rows: each worker receives half of every batch, with different patients, while the
merged mean is that of all 442 patients. Then look at the losses: each worker has its own, while
the weights are the same.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import distwatch as dw

WORKERS, BATCH, EPOCHS = 2, 34, 3  # 442 patients make 13 batches of 34


def start_workers(store: Path) -> None:
    """Start this script once for each worker, and wait for all of them."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(WORKERS)]
    processes = []
    for index in range(WORKERS):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        # On CPUs, since two workers of one machine would each take all of its GPUs.
        environment = {"TF_CONFIG": json.dumps(task), "CUDA_VISIBLE_DEVICES": ""}
        command = [sys.executable, __file__, str(store)]
        processes.append(subprocess.Popen(command, env={**os.environ, **environment}))
    codes = [process.wait() for process in processes]
    if any(codes):
        sys.exit(f"The workers ended with {codes}; their messages are above.")


def free_ports(n: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def work(store: Path) -> None:
    """What each worker does, and all that a script for a real cluster needs."""
    import keras
    import tensorflow as tf
    from sklearn.datasets import load_diabetes

    from distwatch.compat import multiworker_fit

    keras.utils.set_random_seed(5)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before all else
    with strategy.scope():
        model = keras.Sequential(
            [
                keras.Input((10,)),
                keras.layers.Dense(16, activation="relu", name="hidden"),
                keras.layers.Dense(1, name="progression"),
            ]
        )
        model.compile(keras.optimizers.Adam(0.01), "mse")

    x, y = load_diabetes(return_X_y=True)
    x, y = (20 * x).astype("float32"), (y[:, None] / 100).astype("float32")
    # Each worker reads all patients and leaves out those of the other one.
    options = tf.data.Options()
    by_row = tf.data.experimental.AutoShardPolicy.DATA
    options.experimental_distribute.auto_shard_policy = by_row
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH).with_options(options)

    watch = dw.Watch(store, signals=[dw.activations(), dw.inputs(), dw.loss()], overwrite=True)
    with multiworker_fit():  # without it, Keras's fit fails on several workers
        model.fit(data, epochs=EPOCHS, shuffle=False, verbose=0, callbacks=[watch])


def show(run: dw.Run) -> None:
    print(run.summary())
    inputs, loss = run["input"], run["loss"]
    for worker in run.segments:
        print(f"worker {worker.worker}: {worker.steps} steps in {worker.name}")
    rows = inputs.per_replica("count").groupby("epoch").sum() / 10  # of 10 numbers each
    for replica in run.replicas:
        print(
            f"replica {replica}: {int(rows.sel(replica=replica)[0])} patients an epoch,",
            f"loss {loss.per_replica('mean').sel(replica=replica)[-1]:.4f} at the end",
        )
    print(f"together: {int(rows[0].sum())} patients an epoch,", end=" ")
    print(f"loss {loss.merged('mean')[-1]:.4f} at the end")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "run", nargs="?", type=Path, default="runs/workers.zarr", help="replaced if it exists"
    )
    store = parser.parse_args().run
    if "TF_CONFIG" in os.environ:
        work(store)
    else:
        start_workers(store)
        show(dw.open_run(store))


if __name__ == "__main__":
    main()
