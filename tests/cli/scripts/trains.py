"""Fits a small model for so many epochs of nine steps, and then leaves a file behind."""

import sys
from pathlib import Path

import keras
import numpy as np

keras.utils.set_random_seed(1)
rng = np.random.default_rng(0)
x = rng.normal(1.0, 2.0, (80, 6)).astype("float32")
model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4), keras.layers.Dense(1)])
model.compile("adam", "mse")
print("on stdout")
model.fit(x, x.sum(1), batch_size=8, epochs=int(sys.argv[1]), validation_split=0.1, verbose=0)
Path("after").touch()
