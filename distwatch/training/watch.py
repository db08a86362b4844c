"""Watch: a Keras callback that records what changes inside a model."""

from __future__ import annotations

import contextlib
import functools
import warnings
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from distwatch.config import WatchConfig, read_config, watch_config
from distwatch.errors import (
    ConfigError,
    DistwatchWarning,
    UnwatchedWarning,
    WatcherError,
    WatchInUseError,
)
from distwatch.keras_calls import is_observed, running_call, watch_fit_calls
from distwatch.records import PREDICT, TEST, TRAIN, TRAIN_ON_BATCH
from distwatch.signals.schedules import Schedule
from distwatch.store.addresses import Address, shown
from distwatch.store.new_runs import USUAL, FolderOfRuns
from distwatch.text import printable
from distwatch.training.claiming import Begun
from distwatch.training.estimate import estimate
from distwatch.training.printing import print_sentences
from distwatch.training.session import Session, Status
from distwatch.training.strategies import facts_of
from distwatch.training.taps import current_number, list_of, moved_to_front, of_model
from distwatch.training.traps import check_backend, check_fit, check_train_on_batch, explain
from distwatch.training.validations import Validations, evaluate_unrecorded
from distwatch.training.watched_functions import WatchedFunctions

_REPLACED = (
    "the model's train function was replaced during the fit (by compile or "
    "make_train_function), so its steps are no longer captured; give each part of such a "
    "training a fit and a Watch of its own."
)

_NOT_VALIDATION = (
    "model.evaluate is called within this fit on its own; its batches are no validation, so "
    "they are not recorded among it. To record them, give them a name in place of "
    'model.evaluate: watch.validate("NAME", data); or give each such evaluate a '
    'Watch(..., phases=["test"]) of its own.'
)
_UNOBSERVED = (
    "this {0} did not come by keras.Model.{0}, which distwatch has wrapped: its data were not "
    "checked before Keras took them, and if it ends by an error or Ctrl-C, the run is closed "
    "and the model as before only when the error's traceback is gone. Call it on the model."
)


class Watch(keras.callbacks.Callback):
    """Records, for each batch and replica, how a model's signals changed.

    >>> watch = Watch("run.zarr", signals=["dense_*"])     # doctest: +SKIP
    >>> model.fit(dataset, callbacks=[watch])              # doctest: +SKIP

    Training comes out as it would without: the model's architecture, weights,
    configuration and files are not touched, and an error in the watching warns
    once and ends the watching, not the training.

    It works with ``fit`` on the default strategy, OneDeviceStrategy and MirroredStrategy,
    with any ``steps_per_execution``, mixed precision, and XLA where Keras allows it; on
    several workers (MultiWorkerMirroredStrategy) inside ``with
    distwatch.compat.multiworker_fit():``. It watches validation, ``evaluate`` and
    ``predict`` with the ``phases`` "test" and "predict", and ``train_on_batch`` with
    `attached`. For a ``strategy.run`` loop of your own see `distwatch.watching`.

    A Watch may be given to several fits, as tuners and cross-validation do with it or with
    copies of it: each further one begins a run beside the first, ``run-2.zarr``.

    Args:
        store: where the run is written; a folder that does not exist yet, or a URL:
            "s3://bucket/run.zarr" (gs, az and others too), "memory://run.zarr". With a slash
            at its end, as in "runs/", it is a folder in which each training writes a new run,
            ``runs/2026-11-25-1412-digits.zarr``, named by the time and by the script, or in a
            notebook by the model.
        signals: None for the outermost layers that own trainable weights, every `Tracker`,
            the model's own output, the loss, the data at every 10th step, and, where several
            replicas train, ``distwatch.desync()``; glob patterns over layer paths; layers of
            the model; or selectors such as ``distwatch.gradients()``, see `distwatch.signals`.
        reference: what activations are measured against, unless their selector says:
            "previous" (the batch before on the same replica), "batch_mean", "first",
            "ema(0.99)", "neighbour" or "none" (the values themselves).
        schedule: at which steps to look, unless a selector says: a number k for every k-th
            step, or for instance ``distwatch.first(100)``.
        window: how many steps stay on the devices between two drains, which is also the
            number of steps in a chunk of the store.
        drain_every: seconds after which the rows of steps that are done are written, also
            where their window is not full yet: what the end of the process may cost, and
            what ``distwatch tail`` lags behind. It happens after the first step from then
            on. None waits for a full window or the end of an epoch.
        overwrite: delete a run that is at ``store`` already. Not with a folder of runs.
        resume: continue a run that is at ``store`` already, after a crash or with Keras's
            ``BackupAndRestore``: from the step of the restored optimizer's count,
            in place of what was recorded from there on. Without a run there, start one. Not
            with a folder of runs: it needs the path of the run itself.
        strict: let an error in the watching end the training.
        on_full: where the disk is slower than training: "drop" whole blocks, which are
            counted and leave a gap in ``step``, or "wait", which slows training down, but for
            no longer than a minute in which nothing can be written.
        durability: what committed rows must survive: the end of the "process", or a loss of
            "power" (each commit then waits for the disk).
        max_bytes: how large the run may get, such as "2GB"; None for no limit.
        at_max_bytes: what happens to a run that would get larger: "thin" keeps only every
            second, fourth, ... step of its old part, "stop" records no more. Both warn.
        max_overhead: what looking may cost, as a part of the time of an unobserved step: with
            0.05 a step may take 5 % longer. It is measured while training runs, and where it
            is more, the dearest signals are looked at more rarely. What was left out is in
            ``run.changes``. None looks as often as ``schedule`` says. Not on several workers.
        keep_batch: whether the first batch in which NaN or Inf are seen is kept, inputs and
            targets, once on each replica, for `Run.kept_batches`. True keeps up to 64 MiB of a
            replica; "256MB" is another bound. A larger batch is not kept, and the run says so.
        phases: what is recorded, each phase separately: "train" (``fit``), "test" (validation
            inside ``fit``, or ``evaluate`` if the Watch is among its callbacks), "predict"
            and "train_on_batch" (see `attached`). References never cross from one phase
            into another.
        tensorboard: a folder, such as "logs/", in which event files for TensorBoard are
            written while training runs: scalars of each replica and merged, and the
            histograms of signals that are watched with ``distwatch.histogram()``. Or a
            mapping, such as ``{"folder": "logs/", "every": 10, "statistics": ["l2"]}``; see
            `distwatch.event_files.options.EventOptions`. They do not count as ``max_bytes``.
            Several workers write their own replicas, and nothing that is merged.
        log_to_keras: what is added to Keras's ``logs`` at the end of each epoch, for other
            callbacks: ``["activation/dense:l2", "update/*:ratio"]`` names signals (by
            patterns) and a statistic each. The keys are ``activation/dense/l2``,
            ``update/dense/kernel/ratio``, with "_" in place of each of ``. : ! [ ] { }``;
            the values are merged exactly over all steps of the epoch and all replicas, NaN
            where none was looked at. ``EarlyStopping(monitor="activation/dense/l2",
            mode="min")`` needs the mode. The Watch is called before all other callbacks
            then, wherever it stands among them. Not on several workers.
        rules: what is done when a rule first finds something while training runs, such as
            ``[distwatch.actions.on("NonFinite", do=distwatch.actions.stop())]``; and rules of
            your own, which are a part of the summary. See `distwatch.actions`.

    Raises:
        ConfigError: an argument is wrong.
        BackendError: Keras does not run on TensorFlow.

    ``fit`` raises, before its first step, the errors of the groups ``SetupError``
    and ``StoreError`` (see `distwatch.errors`).
    """

    #: Whether an error before the first step is raised.
    _refuses = True

    def __init__(
        self,
        store: str | Path | FolderOfRuns = USUAL,
        *,
        signals: Any = None,
        reference: str = "previous",
        schedule: Schedule | int | None = None,
        window: int = 256,
        drain_every: float | None = 10.0,
        overwrite: bool = False,
        resume: bool = False,
        strict: bool = False,
        on_full: str = "drop",
        durability: str = "process",
        max_bytes: int | str | None = None,
        at_max_bytes: str = "thin",
        max_overhead: float | None = None,
        keep_batch: bool | int | str | None = False,
        phases: Sequence[str] = ("train",),
        tensorboard: Any = None,
        log_to_keras: Sequence[str] = (),
        rules: Any = (),
    ) -> None:
        check_backend()
        config = watch_config(
            store=store,
            signals=signals,
            reference=reference,
            schedule=schedule,
            window=window,
            drain_every=drain_every,
            overwrite=overwrite,
            resume=resume,
            strict=strict,
            on_full=on_full,
            durability=durability,
            max_bytes=max_bytes,
            at_max_bytes=at_max_bytes,
            max_overhead=max_overhead,
            keep_batch=keep_batch,
            phases=phases,
            tensorboard=tensorboard,
            log_to_keras=log_to_keras,
            rules=rules,
        )
        self.__setstate__({"config": config, "_begun": Begun()})

    def __getstate__(self) -> dict[str, Any]:
        """A copy is a Watch of the same arguments that has not been in a fit."""
        return {"config": self.config, "_begun": self._begun}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__init__()
        self.config: WatchConfig = state["config"]
        self._begun: Begun = state["_begun"]
        self._session: Session | None = None
        #: Those of the fit that is under way.
        self._validations: Validations | None = None
        self._functions = WatchedFunctions(self.config)
        self._method = "fit"
        #: The last batch of each phase in this epoch.
        self._last: dict[str, int] = {}
        #: Whether Keras is about to do a batch of validation.
        self._announced = False
        self._told = False
        watch_fit_calls(self)

    @classmethod
    def from_config(cls, path: str | Path) -> Watch:
        """Make a Watch from a YAML file.

        Raises:
            ConfigError: the file or one of its keys is wrong.
        """
        config = read_config(path)
        return cls(**{name: getattr(config, name) for name in WatchConfig.model_fields})

    @property
    def path(self) -> Address | None:
        """Where the run of the last fit is, for `open_run`; None before there is one."""
        return self._session.path if self._session else None

    @property
    def status(self) -> Status:
        """How the watching goes or went: steps recorded, committed and lost, and why."""
        return self._session.status if self._session else Status()

    def __repr__(self) -> str:
        chosen = self.config.signals
        named = "the usual signals" if chosen is None else ", ".join(map(str, chosen))
        status = "not started"
        if self._session is not None:
            counts = self.status
            status = f"{counts.steps} rows of its tables drained, {counts.committed} committed"
            status += f", {counts.lost} lost" * (counts.lost > 0)
            status += f", ended by {counts.error!r}" * (counts.error is not None)
        return (
            f"<distwatch.Watch {str(self.config.store)!r}: {named}, {self.schedule}; {status}>"
        )

    @property
    def stop_training(self) -> bool:
        """Whether a rule has the training stop; ``fit`` does so by itself."""
        return self._session is not None and self._session.stops

    @property
    def schedule(self) -> Schedule:
        """At which steps it looks; ``watch.schedule.k = 10`` takes effect while training."""
        return self.config.schedule

    def set(self, signals: Any, *, every: int | str | None) -> None:
        """Turn signals off, on, or to another cadence while training runs, without a retrace.

        >>> watch.set("gradient/*", every=100)     # doctest: +SKIP

        It takes effect when this is next called back after a batch, in every phase that has
        these signals, and is written into the run: ``run.changes``. What is refused is warned
        of, and changes nothing: an error would end the training whose callback asks for it.
        From outside the process ``distwatch set`` does the same.

        Args:
            signals: patterns over the names of signals. They must match all of the signals
                that share a schedule: those of a selector that has one of its own, such as
                ``gradients(every=1)``; all others of the Watch (with ``max_overhead``, those
                of each selector).
            every: how many steps lie between two looks; "off" or None for no look at all;
                "on" for what was chosen at the start.

        Raises:
            ConfigError: nothing is being trained.
        """
        if self._session is None or not self._functions:
            raise ConfigError(
                "watch.set changes a training that runs; before it, choose a schedule in "
                "Watch(schedule=...) or a selector's every=..."
            )
        self._session.set(signals, every)

    # AutoGraph rewrites what a step calls; what stands here is graph code already.
    @tf.autograph.experimental.do_not_convert
    def log(self, name: str, value: Any) -> Any:
        """Record a number that a step of one's own computes, on each replica and merged.

        In a ``train_step``, ``test_step`` or ``predict_step``, or what these call::

            self.watch.log("d_loss", d_loss)          # the signal "log/d_loss"

        Each replica's number is a row, and their mean the merged one, at the steps of the
        Watch's schedule, or of ``distwatch.logged("d_*", every=10)`` among its signals. Where
        this Watch does not record the step, nothing happens. A further call with the same
        name in a step is a signal of its own, ``log/d_loss#1``. Each step is to give the same
        names: one that is given at some steps only, under a Python condition of a step that
        runs eagerly, ends the watching.

        Args:
            name: letters, digits, "_", "." and "-"; it may have parts, "generator/loss".
            value: one number: a tensor of shape (), or what TensorFlow makes one of. What
                cannot be recorded ends ``fit`` before its first step, as a wrong argument
                does; in a later trace it is warned of, and ends the watching only.

        Returns:
            The value, unchanged.
        """
        self._functions.log(name, value)
        return value

    def validate(self, name: str, *data: Any, **options: Any) -> dict[str, Any]:
        """Evaluate a further validation set in a callback of ``fit``, under a name of its own.

        In ``on_epoch_end`` of a callback, in place of ``model.evaluate(hard_set)``::

            watch.validate("hard", hard_set, verbose=0)

        Where ``phases`` has "test", the set's steps are recorded as a phase with this name:
        ``open_run(path, phase="hard")``. Its metrics are those of the epoch, "hard_loss" and
        so on, in ``run.epochs()``; of several calls in one epoch, the last one's. They need
        "train" among the ``phases``, whose epochs these are. What cannot be recorded is
        warned of and evaluated all the same: an error would end the training.

        An epoch begins for the Watch when Keras calls its ``on_epoch_begin``, in the order
        of the callbacks. In the ``on_epoch_begin`` of a callback that stands before the Watch,
        a set still belongs to the epoch before, and before the first epoch to none: put the
        Watch first, or call this in ``on_epoch_end``.

        Args:
            name: up to 40 of a-z, 0-9 and "_", a letter first; no usual phase's name.
            data: what ``model.evaluate`` is given: a dataset, or x and y.
            options: its other arguments, which may also follow the data by their places.

        Returns:
            What ``model.evaluate(..., return_dict=True)`` returns.

        Raises:
            ConfigError: this Watch was in no fit.
        """
        if self._validations is not None:
            return self._validations.validate(name, *data, **options)
        if self._session is None:
            raise ConfigError(
                "watch.validate evaluates the model of a fit: pass the Watch in "
                "model.fit(callbacks=[watch, ...]), and call it in a further callback."
            )
        return evaluate_unrecorded(self.model, *data, **options)

    def estimate(self, model: keras.Model, batch: Any, *, steps: int) -> int:
        """How many bytes the run of a training will take, before it starts.

        The model's step is traced, not done. What compression leaves is weighed on made-up
        rows; it comes within a fifth of what is written if the deltas are like noise, and
        above it where they do not change.

        >>> watch.estimate(model, (x[:32], y[:32]), steps=100_000)     # doctest: +SKIP

        Args:
            model: built and compiled.
            batch: what ``train_step`` is given on one replica: x, or (x, y), ...
            steps: of the phase "train", in all epochs.

        Returns:
            Bytes, of all workers together.

        Raises:
            ConfigError: the model is not built or not compiled.
            SetupError: what was chosen cannot be watched.
        """
        return estimate(model, batch, self.config, steps)

    @contextlib.contextmanager
    def attached(self, model: keras.Model) -> Iterator[Watch]:
        """Watch what ``model.train_on_batch`` does inside a ``with`` block.

        >>> watch = Watch("run.zarr", phases=["train_on_batch"])   # doctest: +SKIP
        >>> with watch.attached(model):                            # doctest: +SKIP
        ...     for x, y in batches:
        ...         model.train_on_batch(x, y)

        Raises:
            ConfigError: the phase "train_on_batch" was not asked for.
        """
        if TRAIN_ON_BATCH not in self.config.phases:
            raise ConfigError(
                f"this Watch records {', '.join(self.config.phases)}; make it with "
                'phases=["train_on_batch"] to attach it.'
            )
        check_train_on_batch(model)
        self._method = TRAIN_ON_BATCH
        self.set_model(model)
        try:
            self._current.begin()
            yield self
        except BaseException:
            self._release()
            self._current.abandon()
            raise
        try:
            self._current.finish()
        finally:
            self._release()

    def on_called(self, method: str, model: keras.Model, arguments: dict[str, Any]) -> None:
        """Refuse what Keras cannot do, before it fails at it in its own words."""
        self._method = method
        if not self._asked:
            phases, phase = ", ".join(self.config.phases), _HAPPENS[method][0]
            warnings.warn(
                f"this Watch records the phases {phases}, so nothing of {method} is recorded; "
                f"pass a Watch(..., phases=[{phase!r}]) for that.",
                UnwatchedWarning,
                stacklevel=2,
            )
            return
        if method == "fit" and self.config.log_to_keras:
            arguments["callbacks"] = moved_to_front(self, arguments["callbacks"])
        check_fit(model, arguments, trains=method == "fit")

    def set_model(self, model: keras.Model) -> None:
        """Put the taps in place: Keras calls this before it makes its functions.

        Raises:
            WatchInUseError: this Watch is in another call of ``fit``.
            UnknownSignalError, UnwatchableError: the signals cannot be watched.
        """
        if self._functions:
            raise WatchInUseError(
                f"this Watch ({self.config.store}) is in a fit already; "
                "give every fit a Watch of its own."
            )
        super().set_model(model)
        called = None if is_observed(self) else running_call(model)
        if called is not None:
            self._go_on_unobserved(model, *called)
        self._last = {}
        self._announced = self._told = False
        if not self._asked:
            return
        subject = of_model(model)
        self._session = session = Session(
            self.config,
            model.distribute_strategy,
            steps_per_execution=model.steps_per_execution,
            phases=self._asked,
            iterations=subject.count_iterations,
            refuses=self._refuses,
            save=functools.partial(_save, model),
            model=model.name,
            begun=self._begun,
        )
        self._functions.install(
            model, subject, session, phases=self._asked, expects=self._expects
        )
        self._validations = Validations(
            model,
            session,
            recorded=TEST in self._asked,
            noted=TRAIN in self._asked,
            watched=functools.partial(self._functions.add_validation, model, session),
            workers=facts_of(model.distribute_strategy).workers,
            observer=Watch,
        )

    def _go_on_unobserved(
        self, model: keras.Model, method: str, arguments: dict[str, Any]
    ) -> None:
        """Do what can be done where the call did not come by `keras_calls`."""
        listed = list_of(self)
        self.on_called(method, model, {**arguments, "callbacks": listed})
        if listed is not None:
            # It ends with the call, or with the traceback of the call's error.
            weakref.finalize(listed, self._end_unobserved).atexit = False
        warnings.warn(_UNOBSERVED.format(method), DistwatchWarning, stacklevel=2)

    def _end_unobserved(self) -> None:
        if self._functions:
            self._release()
            self._current.abandon()

    def on_train_begin(self, logs: Any = None) -> None:
        """Claim the store, so that a path that cannot be written ends fit here."""
        self._begin()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Label the rows from here on with this epoch."""
        self._last.pop(TRAIN, None)
        if self._asked:
            self._current.begin_epoch(epoch)
        if self._validations is not None:
            self._validations.begin_epoch()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the steps of ``fit`` up to this batch, and drain full rings."""
        self._after_batch(TRAIN, batch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Drain the epoch's rows, and add to ``logs`` what ``log_to_keras`` asks for."""
        if self._asked:
            self._current.end_epoch()
            optimizer = self.model.optimizer
            if self._validations is not None:
                rate = functools.partial(current_number, optimizer)
                self._validations.end_epoch(epoch, logs or {}, rate)
            self._stop_if_asked()
            if logs is not None:
                logs.update(self._current.epoch_logs)

    def on_train_end(self, logs: Any = None) -> None:
        """Drain, commit and close the run; print what stands out."""
        self._finish()

    def on_test_begin(self, logs: Any = None) -> None:
        """Claim the store if this is an ``evaluate`` of its own."""
        self._last.pop(TEST, None)
        if self._method == "evaluate":
            self._begin()

    def on_test_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Expect a batch of validation, or of an ``evaluate`` with this Watch."""
        self._announced = True

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the steps of ``evaluate`` or validation up to this batch."""
        self._announced = False
        self._after_batch(TEST, batch)

    def on_test_end(self, logs: Any = None) -> None:
        """Close the run if this is an ``evaluate`` of its own; else note how far it is."""
        if self._method == "evaluate":
            self._finish()
        elif TEST in self._asked:
            self._current.end_round(TEST)

    def on_predict_begin(self, logs: Any = None) -> None:
        """Claim the store, so that a path that cannot be written ends ``predict`` here."""
        self._begin()

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the steps of ``predict`` up to this batch."""
        self._after_batch(PREDICT, batch)

    def on_predict_end(self, logs: Any = None) -> None:
        """Drain, commit and close the run; print what stands out."""
        self._finish()

    def on_raised(self, model: keras.Model, error: BaseException) -> None:
        """Close the run after an error or an interrupt, with the rows that there are."""
        explain(model, error, begun=bool(self._functions))
        if not self._functions:
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

    @property
    def _asked(self) -> tuple[str, ...]:
        """The phases that were asked for and happen in the method that was called."""
        happens = _HAPPENS[self._method]
        return tuple(phase for phase in self.config.phases if phase in happens)

    def _begin(self) -> None:
        if self._asked:
            self._current.begin()
            self._functions.begin()

    def _after_batch(self, phase: str, batch: int) -> None:
        if phase not in self._asked:
            if self._session is not None and self._functions:
                self._session.training_goes_on()
            return
        # With steps_per_execution > 1 Keras names the last batch of each execution.
        steps, self._last[phase] = batch - self._last.get(phase, -1), batch
        if not self._functions.in_place:
            self._current.fail(WatcherError(_REPLACED))
        self._current.after_steps(steps, phase)
        self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self.stop_training:
            self.model.stop_training = True

    def _finish(self) -> None:
        if not self._asked:
            return
        self._current.finish()
        self._release()
        if self.params.get("verbose", 1):
            print_sentences(self._lines)

    def _lines(self) -> list[str]:
        """What is printed at the end: with the path, where it was made here."""
        made = self.path if self.path != self.config.store else None
        found = self._current.sentences()
        return found if made is None else [*found, f"The run is {printable(shown(made))}."]

    def _expects(self, phase: str) -> bool:
        """Whether a batch belongs to this call: a callback may evaluate other data in it."""
        if phase != TEST or self._announced:
            return True
        if not self._told and not (self._validations and self._validations.is_told):
            self._told = True
            warnings.warn(_NOT_VALIDATION, UnwatchedWarning, stacklevel=2)
        return False

    def _release(self) -> None:
        self._validations = None
        self._functions.remove()


def _save(model: keras.Model, path: str) -> None:
    """Save a model as a file: all of it, or its weights."""
    if path.endswith(".weights.h5"):
        model.save_weights(path, overwrite=True)
    else:
        model.save(path, overwrite=True)


#: Method of a model -> the phases that happen in it with the Watch among its callbacks.
_HAPPENS = {
    "fit": (TRAIN, TEST, TRAIN_ON_BATCH),
    "evaluate": (TEST,),
    "predict": (PREDICT,),
    TRAIN_ON_BATCH: (TRAIN_ON_BATCH,),
}
