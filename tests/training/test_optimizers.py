"""The optimizers that are applied are watched and count the steps, wherever they are kept."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from trainings import fit

import distwatch as dw

X = np.random.default_rng(0).normal(1.0, 2.0, (48, 4)).astype("f")


class Gan(keras.Model):
    """Two networks with an optimizer each; the critic is trained twice a step."""

    def __init__(self):
        super().__init__()
        self.critic = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="c")])
        self.maker = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, name="m")])
        self.built = True

    def compile(self, critic, maker):
        # Which makes an optimizer that is never applied.
        super().compile()
        self.critic_optimizer, self.maker_optimizer = critic, maker

    def call(self, z):
        return self.critic(self.maker(z))

    def train_step(self, real):
        z = tf.ones((tf.shape(real)[0], 3))
        for _ in range(2):
            self._train(self.critic, self.critic_optimizer, 1.0, z, real)
        return {"loss": self._train(self.maker, self.maker_optimizer, -1.0, z, real)}

    def _train(self, network, optimizer, sign, z, real):
        with tf.GradientTape() as tape:
            difference = tf.reduce_mean(self(z)) - tf.reduce_mean(self.critic(real))
            loss = sign * difference
        variables = network.trainable_weights
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss


class Keeping(keras.Model):
    """One network; ``keep`` puts the optimizer somewhere, ``find`` gives it back."""

    def __init__(self, keep, find):
        super().__init__()
        self.inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, name="o")])
        self.built = True
        keep(self, keras.optimizers.SGD(0.1))
        self._find = find

    def call(self, x):
        return self.inner(x)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean((y - self(x)) ** 2)
        variables = self.trainable_weights
        self._find(self).apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


def in_dict(model, optimizer):
    model.kept = {"main": optimizer}


def in_nested_lists(model, optimizer):
    model.kept = [{"others": [], "main": (optimizer,)}]


def of_an_inner_model(model, optimizer):
    model.inner.compile(optimizer)


WAYS = {
    "dict": (in_dict, lambda model: model.kept["main"]),
    "nested": (in_nested_lists, lambda model: model.kept[0]["main"][0]),
    "inner": (of_an_inner_model, lambda model: model.inner.optimizer),
}


@pytest.mark.fast_cases("dict")
@pytest.mark.parametrize("way", WAYS)
def test_an_optimizer_is_found_where_it_is_kept(tmp_path, way):
    keras.utils.clear_session()
    model = Keeping(*WAYS[way])
    model.compile()
    watch = dw.Watch(tmp_path / "run.zarr", signals=[dw.gradients(), dw.updates()])
    fit(model, X, X[:, :1], watch)
    run = dw.open_run(tmp_path / "run.zarr")
    update, gradient = (
        next(run[n] for n in run.signals if n.startswith(kind) and n.endswith("kernel"))
        for kind in ("update/", "gradient/")
    )
    wanted = 0.1 * gradient.merged("l2").values
    np.testing.assert_allclose(update.merged("l2").values, wanted, rtol=1e-5)
    assert (wanted > 0).all()
    assert run.to_xarray().iteration.values.tolist() == [1, 2, 3]


@pytest.mark.slow
def test_steps_are_counted_by_an_optimizer_that_is_applied_once_in_each(tmp_path):
    keras.utils.clear_session()
    model = Gan()
    model.compile(keras.optimizers.SGD(1e-3), keras.optimizers.Adam(1e-3))
    for _ in range(2):
        fit_gan = dw.Watch(tmp_path / "run.zarr", resume=True)
        model.fit(X, batch_size=16, verbose=0, shuffle=False, callbacks=[fit_gan])
    data = dw.open_run(tmp_path / "run.zarr").to_xarray()
    # The second fit goes on where the first ended.
    assert data.step.values.tolist() == [0, 1, 2, 3, 4, 5]
    assert data.iteration.values.tolist() == [1, 2, 3, 4, 5, 6]
    assert int(model.critic_optimizer.iterations) == 12
