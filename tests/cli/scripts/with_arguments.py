import argparse
import builtins
import multiprocessing
import os
import pickle
import subprocess
import sys

import numpy as np


class Row:
    """Found again by whoever unpickles it only if this is its module."""

    def __init__(self, values):
        self.values = values


def first(row):
    watching = [name for name in sys.modules if name.startswith("distwatch")]
    return row.values[0], watching, os.environ.get("PYTHONPATH")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", default="mine")
    parser.add_argument("--lr", type=float)
    parser.add_argument("rest", nargs="*")
    given = parser.parse_args()
    print(given, builtins.own, sys.argv, sys.path, sys.stdin.read(), flush=True)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(first, [Row([1.5, 2]), Row([3, 4])]), flush=True)
    print(pickle.loads(pickle.dumps(Row([9]))).values, sys.flags, flush=True)
    ask = "import os, sys; print(sorted(os.environ.items()), 'sitecustomize' in sys.modules)"
    subprocess.run([sys.executable, "-c", ask], check=True)

    import keras

    keras.utils.set_random_seed(7)
    x = np.random.default_rng(8).normal(4.0, 3.0, (40, 3)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(given.lr), "mse")
    model.fit(x, x[:, :2], verbose=0)
    np.savez("weights.npz", *model.get_weights())
    sys.exit(3)


if __name__ == "__main__":
    main()
