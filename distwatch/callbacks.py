"""Watch: a Keras callback that records what changes inside a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from distwatch import preflight
from distwatch.config import WatchConfig, read_config, watch_config
from distwatch.errors import WatcherError, WatchInUseError
from distwatch.schedules import Schedule, every
from distwatch.session import Session, Status
from distwatch.taps import Taps, WatchedTraining, tell_of_fit

_REPLACED = (
    "the model's train function was replaced during the fit (by compile or "
    "make_train_function), so its steps are no longer heard; give each part of such a "
    "training a fit and a Watch of its own."
)


class Watch(keras.callbacks.Callback):
    """Records, for each batch and replica, how a model's signals changed.

    >>> watch = Watch("run.zarr", signals=["dense_*"])     # doctest: +SKIP
    >>> model.fit(dataset, callbacks=[watch])              # doctest: +SKIP

    Training comes out as it would without: the model's architecture, weights,
    configuration and files are not touched, and an error in the watching warns
    once and ends the watching, not the training.

    Args:
        store: where the run is written; a folder that does not exist yet.
        signals: None for the outermost layers that own weights, every `Tracker`
            and the model's own output; glob patterns over layer paths; or selectors
            such as ``distwatch.gradients()``, see `distwatch.signals`.
        reference: what activations are measured against, unless their selector says:
            "previous" (the batch before on the same replica), "batch_mean", "first",
            "ema(0.99)", "neighbour" or "none" (the values themselves).
        schedule: at which steps to look, for instance ``distwatch.every(10)``, unless
            a selector says.
        window: how many steps stay on the devices between two drains, and how many
            make a chunk of the store.
        overwrite: delete a run that is at ``store`` already.
        strict: let an error in the watching end the training.

    Raises:
        ConfigError: an argument is wrong.
        BackendError: Keras does not run on TensorFlow.

    ``fit`` raises, before its first step, the errors of the groups ``SetupError``
    and ``StoreError`` (see `distwatch.errors`).
    """

    def __init__(
        self,
        store: str | Path,
        *,
        signals: Any = None,
        reference: str = "previous",
        schedule: Schedule | None = None,
        window: int = 256,
        overwrite: bool = False,
        strict: bool = False,
    ) -> None:
        super().__init__()
        preflight.check_backend()
        self.config = watch_config(
            store=store,
            signals=signals,
            reference=reference,
            schedule=every(1) if schedule is None else schedule,
            window=window,
            overwrite=overwrite,
            strict=strict,
        )
        self._session: Session | None = None
        self._training: WatchedTraining | None = None
        self._last_step = -1
        tell_of_fit(self)

    @classmethod
    def from_config(cls, path: str | Path) -> Watch:
        """Make a Watch from a YAML file.

        Raises:
            ConfigError: the file or one of its keys is wrong.
        """
        config = read_config(path)
        return cls(**{name: getattr(config, name) for name in WatchConfig.model_fields})

    @property
    def status(self) -> Status:
        """How the watching goes or went: steps recorded, committed and lost, and why."""
        return self._session.status if self._session else Status()

    @property
    def schedule(self) -> Schedule:
        """At which steps it looks; ``watch.schedule.k = 10`` takes effect while training."""
        return self.config.schedule

    def on_fit_called(self, model: keras.Model, arguments: dict[str, Any]) -> None:
        """Refuse what Keras cannot do, before it fails at it in its own words."""
        preflight.check_training(model)
        preflight.check_data(
            model,
            arguments.get("x"),
            batch_size=arguments.get("batch_size"),
            validation_split=arguments.get("validation_split", 0.0),
        )

    def set_model(self, model: keras.Model) -> None:
        """Put the taps in place: Keras calls this before it makes its train function."""
        if self._training is not None:
            raise WatchInUseError(
                f"this Watch ({self.config.store}) is in a fit already; "
                "give every fit a Watch of its own."
            )
        super().set_model(model)
        taps = Taps(model, self.config)
        session = Session(
            self.config,
            model.distribute_strategy,
            steps_per_execution=model.steps_per_execution,
        )
        self._training = WatchedTraining(model, taps, session.make_recorder, session.fail)
        self._training.install()
        self._session = session

    def on_train_begin(self, logs: Any = None) -> None:
        """Claim the store, so that a path that cannot be written ends fit here."""
        self._current.begin()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._last_step = -1
        self._current.begin_epoch(epoch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # With steps_per_execution > 1 Keras names the last batch of each execution.
        steps, self._last_step = batch - self._last_step, batch
        if self._training is not None and not self._training.in_place:
            self._current.fail(WatcherError(_REPLACED))
        self._current.after_steps(steps)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._current.end_epoch()

    def on_train_end(self, logs: Any = None) -> None:
        self._current.finish()
        self._release()
        if self.params.get("verbose", 1):
            print("\n".join(self._current.sentences()))

    def on_test_begin(self, logs: Any = None) -> None:
        self._release_unless_training()

    def on_predict_begin(self, logs: Any = None) -> None:
        self._release_unless_training()

    def on_fit_raised(self, model: keras.Model, error: BaseException) -> None:
        """The fit ended by an error or an interrupt: bring home what there is."""
        if isinstance(error, WatchInUseError):
            return
        if self._training is None:
            preflight.explain(model, error)
            return
        self._release()
        self._current.abandon()

    @property
    def _current(self) -> Session:
        if self._session is None:
            raise WatcherError(
                "a Watch was called back outside a fit; pass it in model.fit(callbacks=[...])."
            )
        return self._session

    def _release_unless_training(self) -> None:
        # evaluate() and predict() set callbacks up as fit does; there is nothing to
        # watch in them.
        if self._session is not None and not self._session.begun:
            self._release()

    def _release(self) -> None:
        if self._training is not None:
            self._training.remove()
            self._training = None
