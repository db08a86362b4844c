"""watching(): what a Watch is for ``fit``, for hand-written training loops."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import tensorflow as tf

from distwatch.actions import CHECKPOINT
from distwatch.config import WatchConfig, watch_config
from distwatch.errors import ConfigError, UnsupportedTrainingError
from distwatch.store.addresses import Address
from distwatch.store.new_runs import USUAL, FolderOfRuns
from distwatch.text import counted
from distwatch.training.session import Session, Status
from distwatch.training.strategies import StrategyFacts, facts_of, in_replica, replica_count
from distwatch.training.taps import Steps, Subject, Taps, of_loop
from distwatch.training.taps.step_capture import LOSS, StepCapture, compiled_by_xla
from distwatch.training.traps import check_loop

Step = TypeVar("Step", bound=Callable[..., Any])
Tensor = Any

# AutoGraph rewrites what a tf.function calls; what stands here is graph code already.
_as_written = tf.autograph.experimental.do_not_convert


def watching(
    model: Any,
    optimizer: Any = None,
    store: str | Path | FolderOfRuns = USUAL,
    *,
    strategy: Any = None,
    steps_per_execution: int = 1,
    **options: Any,
) -> Watching:
    """Watch a hand-written training loop.

    ::

        with distwatch.watching(model, optimizer, "run.zarr", strategy=strategy) as watch:
            watched_step = watch.wrap(train_step)     # or: with watch.step(): inside it

            @tf.function
            def distributed_step(batch):
                strategy.run(watched_step, args=(batch,))

            for batch in strategy.experimental_distribute_dataset(dataset):
                distributed_step(batch)
                watch.after_step()

    ``train_step`` runs on each replica, calls the model and hands gradients to
    ``optimizer.apply`` or ``apply_gradients``. It may be in a ``tf.function``, in a loop
    inside one, or run eagerly; not in one that XLA compiles.

    Args:
        model: what is trained, or a list of models (a GAN's two), whose signals then begin
            with their names: ``activation/generator/dense``.
        optimizer: what trains it, or a list; None if no gradients or updates are watched.
        store: where the run is written, as in `Watch`: a folder that does not exist yet, or,
            with a slash at its end, one in which each training writes a new run.
        strategy: what ``strategy.run`` is called on; None for the current one.
        steps_per_execution: how many steps are done, at most, between two calls of
            ``watch.after_step``.
        options: as in `Watch`: ``signals``, ``reference``, ``schedule``, ``window``,
            ``drain_every``, ``overwrite``, ``resume``, ``strict``, ``on_full``, ``durability``,
            ``max_bytes``, ``at_max_bytes``, ``max_overhead``, ``keep_batch``, ``tensorboard``
            and ``rules``.

    Raises:
        ConfigError: an argument is wrong.
        UnsupportedTrainingError: Keras cannot train like this.
        UnknownSignalError, UnwatchableError: the signals cannot be watched.
        BackendError: Keras does not run on TensorFlow.

    Entering the block raises the errors of the group ``StoreError``.
    """
    if steps_per_execution < 1:
        raise ConfigError(f"steps_per_execution={steps_per_execution}: it is at least 1.")
    if "phases" in options:
        raise ConfigError("watching(phases=...): a loop of your own has the phase train only.")
    if options.get("log_to_keras"):
        raise ConfigError(
            "watching(log_to_keras=...): a loop of your own has no Keras logs; read "
            "watch.status, or the run with open_run."
        )
    config = watch_config(store=store, **options)
    if any(action.what == CHECKPOINT for choice in config.rules for action in choice.do):
        raise ConfigError(
            "watching(rules=...): a loop of your own saves its models itself; ask for "
            "watch.stop_training, and save them there."
        )
    strategy = tf.distribute.get_strategy() if strategy is None else strategy
    subject = of_loop(model, optimizer)
    check_loop(subject.models, subject.optimizers, strategy)
    return Watching(subject, config, strategy, steps_per_execution=steps_per_execution)


class Watching:
    """A loop that is watched; made by `watching`, used in a ``with`` statement."""

    def __init__(
        self, subject: Subject, config: WatchConfig, strategy: Any, *, steps_per_execution: int
    ) -> None:
        self._session = Session(
            config,
            strategy,
            steps_per_execution=steps_per_execution,
            iterations=subject.count_iterations,
            model=subject.models[0].name if subject.models else "",
        )
        self._facts = facts_of(strategy)
        self._steps = Steps(
            Taps(subject, config, self._facts),
            self._session.make_recorder,
            self._session.fail,
            self._session.training_goes_on,
        )
        # Each replica has a thread, which captures its own step.
        self._thread = threading.local()

    def __enter__(self) -> Watching:
        self._session.begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._session.finish()
        else:
            self._session.abandon()

    @_as_written
    @contextlib.contextmanager
    def step(self, batch: Any = None) -> Iterator[None]:
        """Watch what is done in a ``with`` block: one step, on one replica.

        Args:
            batch: what the step is given, where ``distwatch.inputs()`` is watched: x, or
                (x, y), or (x, y, sample_weight).
        """
        try:
            _check_place(self._facts)
        except UnsupportedTrainingError as error:
            self._session.fail(error)
        with self._steps.capturing(batch) as capture:
            self._thread.capture = capture
            try:
                yield
            finally:
                self._thread.capture = None
        self._steps.record(self._steps.choose(capture), batch)

    def wrap(self, train_step: Step) -> Step:
        """Wrap a step on one replica so that it is watched.

        Args:
            train_step: its positional arguments are the batch; what it returns is returned.

        Raises:
            UnsupportedTrainingError: it is a tf.function, into which nobody can look.
        """
        if isinstance(train_step, tf.types.experimental.PolymorphicFunction):
            raise UnsupportedTrainingError(
                "watch.wrap was given a tf.function, whose inside is out of reach; wrap what "
                "it calls: put @tf.function above @watch.wrap, or write "
                "tf.function(watch.wrap(step))."
            )

        @functools.wraps(train_step)
        def watched_step(*args: Any, **kwargs: Any) -> Any:
            with self.step(args[0] if len(args) == 1 else args):
                return train_step(*args, **kwargs)

        return watched_step  # type: ignore[return-value]

    @_as_written
    def loss(self, loss: Tensor) -> Tensor:
        """Record this replica's loss, inside a step; it is returned unchanged.

        The losses of the replicas are compared and averaged as they are given, so give the
        mean over the replica's own rows. Each call in a step is a signal: ``loss``,
        ``loss#1``.

        Raises:
            ConfigError: this is called outside a watched step.
        """
        capture: StepCapture | None = getattr(self._thread, "capture", None)
        if capture is None:
            raise ConfigError("watch.loss(...) belongs inside a watched step.")
        if capture.in_reach(LOSS):
            capture.losses.append(loss)
        return loss

    @_as_written
    def log(self, name: str, value: Any) -> Any:
        """Record a number that a step computes, inside of it: see `Watch.log`."""
        self._steps.log(name, value)
        return value

    def after_step(self, steps: int = 1) -> None:
        """Report, after each call of the training function, how many steps it did."""
        self._steps.check()
        self._session.after_steps(steps)

    def begin_epoch(self, epoch: int) -> None:
        """Drain the rows up to here, and label the following ones with this epoch."""
        self._session.end_epoch()
        self._session.begin_epoch(epoch)

    def set(self, signals: Any, *, every: int | str | None) -> None:
        """Turn signals off, on, or to another cadence: see `Watch.set`."""
        self._session.set(signals, every)

    @property
    def path(self) -> Address | None:
        """Where the run is, for `open_run`; None before the block is entered."""
        return self._session.path

    @property
    def status(self) -> Status:
        """How the watching goes or went: steps recorded, committed and lost, and why."""
        return self._session.status

    @property
    def stop_training(self) -> bool:
        """Whether a rule has the training stop: ask for it after each step."""
        return self._session.stops

    def summary(self) -> str:
        """What stands out in what was recorded so far, in a few plain sentences."""
        return "\n".join(self._session.sentences())


def _check_place(told: StrategyFacts) -> None:
    if not in_replica():
        raise UnsupportedTrainingError(
            "watch.step() and watch.wrap(train_step) belong inside what strategy.run runs on "
            "each replica, not around strategy.run."
        )
    if replica_count() != told.total_replicas:
        running = counted(replica_count(), "replica")
        raise UnsupportedTrainingError(
            f"this step runs on {running}, but what is watched is the {told}: "
            "give watching(..., strategy=...) the strategy whose run is called, or none where "
            "none is."
        )
    if compiled_by_xla():
        raise UnsupportedTrainingError(
            "XLA compiles this step, and with it the rings that rows are kept in, which it "
            "cannot: leave jit_compile out of the tf.function around the step."
        )
