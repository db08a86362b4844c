import keras
import numpy as np

keras.utils.set_random_seed(1)
rng = np.random.default_rng(0)
x = rng.normal(1.0, 2.0, (90, 6)).astype("float32")
y = x.sum(1, keepdims=True) + rng.normal(3.0, 1.0, (90, 1)).astype("float32")
fit = keras.Model.fit  # looked up before anything is watched
model = keras.Sequential(
    [
        keras.Input((6,)),
        keras.layers.Dense(8, "relu"),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(1),
    ]
)
model.compile("adam", "mse", metrics=["mae"])
model.summary()
history = fit(model, x, y, epochs=2, verbose=1, validation_split=0.2)
print(history.history, history.params)
# Names and random numbers after it show whether anything drew or counted in between.
print(keras.layers.Dense(1).name, np.random.rand(), keras.random.normal((1,)).numpy())
model.fit(x, y, verbose=2)
np.savez("weights.npz", *model.get_weights())
