import keras
import numpy as np


class Noisy(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden = [keras.layers.Dense(7, "tanh") for _ in range(2)]
        self.guess = keras.layers.Dense(3)

    def call(self, x, training=False):
        for layer in self.hidden:
            x = layer(x)
        return self.guess(x)

    def fit(self, *args, **kwargs):
        print("fit of", type(self).__name__)
        return super().fit(*args, **kwargs)


class Speak(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print(batch, logs)


keras.utils.set_random_seed(2)
rng = np.random.default_rng(3)
x = rng.normal(5.0, 2.0, (50, 4)).astype("float32")
y = rng.integers(0, 3, 50)
model = Noisy()
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.SGD(0.05, momentum=0.9), loss)
callbacks = [Speak()]
model.fit(x, y, 16, 2, 0, callbacks)
print(len(callbacks), model.evaluate(x, y, verbose=0), model.predict(x[:2], verbose=0))
np.savez("weights.npz", *model.get_weights())
