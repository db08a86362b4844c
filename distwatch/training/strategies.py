"""The only room that knows tf.distribute.

It answers which replica runs (in a train step) and what a strategy is (on the host), and
reduces rows over replicas.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from distwatch.statistics import ROW, Statistic
from distwatch.training.gradient_registry import forget_gradients
from distwatch.training.virtual_devices import virtual_devices

Strategy = Any
Tensor = Any
T = TypeVar("T")

#: What TensorFlow calls training without a strategy.
_DEFAULT = type(tf.distribute.get_strategy())


def in_replica() -> bool:
    """Whether this code runs on a replica (and not in cross-replica context)."""
    return tf.distribute.get_replica_context() is not None


def replica_id() -> int:
    """The global number of the replica that this code runs on (or is traced for)."""
    context = tf.distribute.get_replica_context()
    return int(tf.get_static_value(context.replica_id_in_sync_group))


def replica_count() -> int:
    """How many replicas train together."""
    return int(tf.distribute.get_strategy().num_replicas_in_sync)


def replica_device() -> str:
    """The device of the replica that this code runs on; "" if TensorFlow may choose."""
    facts = facts_of(tf.distribute.get_strategy())
    # The replica context's own list of devices is empty on all workers but the first.
    return facts.devices[facts.replicas.index(replica_id())]


@dataclass(frozen=True)
class StrategyFacts:
    """What distwatch needs to know of a strategy: asked once by `facts_of`, then passed on."""

    #: The name by which the strategy is known, such as ``MirroredStrategy``.
    kind: str
    #: The devices of this process's replicas; "" where TensorFlow chooses one.
    devices: tuple[str, ...]
    #: Their types, such as ``CPU``; empty without a strategy.
    device_types: tuple[str, ...]
    #: The global numbers of this process's replicas.
    replicas: tuple[int, ...]
    #: How many replicas train together, on all workers.
    total_replicas: int
    #: Which worker this process is, counted from 0, and how many train together.
    worker: int
    workers: int
    #: Whether each replica has a copy of every variable, kept equal by reductions.
    mirrored: bool
    #: Whether Keras 3 can train under it.
    supported: bool

    @property
    def has_copies(self) -> bool:
        """Whether several replicas have a copy of every variable."""
        return self.mirrored and self.total_replicas > 1

    @property
    def on_cpus(self) -> bool:
        """Whether all replicas of this process are CPUs."""
        return set(self.device_types) == {"CPU"}

    def __str__(self) -> str:
        """In a few words: ``MirroredStrategy over 2 x CPU``, for each worker."""
        if not self.device_types:
            return "default strategy"
        counts = {each: self.device_types.count(each) for each in self.device_types}
        listed = " + ".join(f"{n} x {each}" for each, n in counts.items())
        if self.workers > 1:
            listed = f"{self.workers} workers of {listed}"
        return f"{self.kind} over {listed}"


#: Bytes of a text that workers hand to each other.
_LONGEST_TEXT = 255

#: Strategies that Keras 3 cannot train under, by parts of their classes' names.
_UNSUPPORTED = ("ParameterServer", "CentralStorage")


def facts_of(strategy: Strategy) -> StrategyFacts:
    """Ask a strategy for all that is to be known of it."""
    extended = strategy.extended
    default = isinstance(strategy, _DEFAULT)
    devices = ("",) if default else tuple(extended.worker_devices)
    workers = int(getattr(extended, "_num_workers", 1))
    worker = int(extended._id_in_cluster) if workers > 1 else 0
    several = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    # The class of a MultiWorkerMirroredStrategy has another name.
    kind = "MultiWorkerMirroredStrategy" if several else type(strategy).__name__
    types = () if default else (tf.DeviceSpec.from_string(d).device_type for d in devices)
    return StrategyFacts(
        kind=kind,
        devices=devices,
        device_types=tuple(types),
        replicas=tuple(range(worker * len(devices), (worker + 1) * len(devices))),
        total_replicas=int(strategy.num_replicas_in_sync),
        worker=worker,
        workers=workers,
        mirrored=several or isinstance(strategy, tf.distribute.MirroredStrategy),
        supported=not any(name in kind for name in _UNSUPPORTED),
    )


class PerReplica(Generic[T]):
    """One object a replica of this process, made where it is needed first."""

    def __init__(self) -> None:
        #: Number of the replica -> its object.
        self.made: dict[int, T] = {}
        self._lock = threading.Lock()

    def get(self, make: Callable[[str], T]) -> T:
        """The object of the replica that this code runs on.

        Args:
            make: called at the first time, with the replica's device.
        """
        number = replica_id()
        with self._lock:
            if number not in self.made:
                self.made[number] = make(replica_device())
            return self.made[number]


def has_copies(variable: Any) -> bool:
    """Whether a TensorFlow variable has a copy on each replica."""
    return hasattr(variable, "values")


def copies_of(variable: Any) -> tuple[Any, ...]:
    """The copies of a variable on this process's replicas, in their order."""
    return tuple(variable.values)


def is_joined_on_read(variable: Any) -> bool:
    """Whether each replica writes a value of its own, as those of metrics."""
    on_read = tf.VariableSynchronization.ON_READ
    return bool(getattr(variable, "synchronization", None) == on_read)


def reduces_by_collectives(strategy: Strategy) -> bool:
    """Whether a mirrored strategy reduces by TensorFlow's collective operations."""
    if not isinstance(strategy, tf.distribute.MirroredStrategy):
        return True
    operations = strategy.extended._cross_device_ops or strategy.extended._get_cross_device_ops(
        tf.constant(0.0)
    )
    return type(operations).__name__ == "CollectiveAllReduce"


class _ReplicaReductions:
    """`distwatch.statistics.Reductions` over replicas; used in replica context.

    Within one process the values of all replicas are there to be taken together. A collective
    would share its numbers with those of every other strategy over the same devices, and
    TensorFlow ends all of them, the training's too, where two of one number differ in shape.
    """

    def __init__(self) -> None:
        self.context = tf.distribute.get_replica_context()
        facts = facts_of(self.context.strategy)
        self._one_process = facts.mirrored and facts.workers == 1

    def sum(self, x: Tensor) -> Tensor:
        if self._one_process:
            return tf.reduce_sum(self._gather(x), axis=0)
        return self.context.all_reduce(tf.distribute.ReduceOp.SUM, x)

    # TensorFlow's collectives know SUM and MEAN only, so extrema are gathered.
    def min(self, x: Tensor) -> Tensor:
        return tf.reduce_min(self._gather(x), axis=0)

    def max(self, x: Tensor) -> Tensor:
        return tf.reduce_max(self._gather(x), axis=0)

    def _gather(self, x: Tensor) -> Tensor:
        if self._one_process:
            return self.context.merge_call(_stacked, args=(x,))
        return self.context.all_gather(x[None], axis=0)


def _stacked(strategy: Strategy, x: Any) -> Tensor:
    """The values of all replicas along a new first axis, in cross-replica context."""
    return tf.stack(strategy.experimental_local_results(x))


#: Makes one float64 array of one float64 array a replica, all of one shape.
OverReplicas = Callable[[Sequence[Any]], npt.NDArray[np.float64]]


def row_merger(strategy: Strategy, statistic: Statistic[Any] = ROW) -> OverReplicas:
    """Make a function that merges rows over replicas, by cross-replica reductions.

    The formula is each statistic's own (``Statistic.reduce_replicas``); here it runs on
    the devices, one ``strategy.run`` for a whole block of rows, in float64.

    Returns:
        A function of one array a replica, each of shape (..., field), to one such array.
    """

    def merge(rows: Tensor) -> Tensor:
        merged = statistic.reduce_replicas(statistic.unpack(rows), _ReplicaReductions())
        return statistic.pack(merged)

    return _on_all_replicas(strategy, merge)


def sum_over_replicas(strategy: Strategy) -> OverReplicas:
    """Make a function that adds up arrays over replicas, by one cross-replica reduction."""
    return _on_all_replicas(strategy, lambda x: _ReplicaReductions().sum(x))


def _on_all_replicas(strategy: Strategy, function: Callable[[Tensor], Tensor]) -> OverReplicas:
    """Compile a function that every replica calls with its own array of float64.

    What is returned takes one array a replica, and gives what the first replica
    got out. The array of a single replica is returned as it is. TensorFlow adds up the
    traces of all functions that share their code, and warns of many, so what is compiled
    is a ``partial``, which is counted by itself.
    """
    traced: list[Any] = []
    run = partial(_run, strategy, function, traced)
    compiled = tf.function(run, reduce_retracing=True, autograph=False)

    def call(arrays: Sequence[Any]) -> npt.NDArray[np.float64]:
        if len(arrays) == 1:
            return np.asarray(arrays[0])
        distributed = strategy.experimental_distribute_values_from_function(
            lambda context: tf.convert_to_tensor(
                arrays[context.replica_id_in_sync_group], tf.float64
            )
        )
        try:
            return np.asarray(local_part(strategy, compiled(distributed)))
        finally:
            forget_gradients(traced)
            traced.clear()

    return call


def _run(
    strategy: Strategy,
    function: Callable[[Tensor], Tensor],
    traced: list[Any],
    values: Any,
) -> Any:
    traced.append(tf.compat.v1.get_default_graph())
    return strategy.run(function, args=(values,))


def local_part(strategy: Strategy, value: Any) -> Any:
    """What the first replica of this process has of a distributed value."""
    return strategy.experimental_local_results(value)[0]


def sum_over_workers(strategy: Strategy, number: int) -> int:
    """Add up one whole number a worker, below 2**50; every worker has to call this."""
    first = facts_of(strategy).replicas[0]

    def given(context: Any) -> Tensor:
        mine = number if context.replica_id_in_sync_group == first else 0
        return tf.constant(mine, tf.float64)

    numbers = strategy.experimental_distribute_values_from_function(given)
    return round(float(strategy.reduce(tf.distribute.ReduceOp.SUM, numbers, axis=None)))


def text_of_first_worker(strategy: Strategy, text: str) -> str:
    """Hand a text of the first worker to all of them; every worker has to call this.

    Args:
        strategy: of all workers.
        text: at most 255 bytes in UTF-8; that of other workers is not looked at.
    """
    facts = facts_of(strategy)
    codes = list(text.encode()) if facts.worker == 0 else []

    def given(context: Any) -> Tensor:
        mine = codes if context.replica_id_in_sync_group == 0 else []
        return tf.constant(mine + [0] * (_LONGEST_TEXT - len(mine)), tf.float64)

    numbers = strategy.experimental_distribute_values_from_function(given)
    summed = strategy.reduce(tf.distribute.ReduceOp.SUM, numbers, axis=None)
    return bytes(round(code) for code in summed.numpy().tolist()).rstrip(b"\0").decode()


_key_base_lock = threading.Lock()


def mirrored(n: int) -> Strategy:
    """A MirroredStrategy over ``n`` virtual CPU devices, made for tests.

    It works with ``steps_per_execution`` > 1 and together with other strategies in one
    process, which a plain ``MirroredStrategy`` on virtual CPUs does not: its
    reductions go through one device, and its collective keys are its own.

    Raises:
        VirtualDevicesError: fewer than ``n`` devices, and TensorFlow has started.
    """
    devices = virtual_devices(n)
    with _key_base_lock:
        # Strategies of different sizes that share keys fail with "joining a group
        # with size ..."; TensorFlow spaces them by this class attribute.
        tf.distribute.MirroredStrategy._collective_key_base += 100_000
    return tf.distribute.MirroredStrategy(
        devices, cross_device_ops=tf.distribute.ReductionToOneDevice()
    )


def on_device(device: str, make: Callable[[], Any]) -> Any:
    """Create a plain variable on one device, also from inside a trace on a replica.

    On a thread that runs a replica, every ``tf.Variable`` becomes a mirrored one,
    whose copies are written together. A thread of its own knows of no strategy and
    of no graph.
    """

    def create() -> Any:
        with tf.device(device or None):
            return make()

    with ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(create).result()


def host_of(device: str) -> str:
    """The device for small whole numbers (row counts, slots) of a replica.

    Shapes live on the host; a variable of them on the GPU would make
    the GPU wait at every step.
    """
    spec = tf.DeviceSpec.from_string(device)
    if spec.device_type in (None, "CPU"):
        return device
    return str(spec.replace(device_type="CPU", device_index=0).to_string())
