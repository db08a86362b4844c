"""What a statistic is, and how its states are packed, merged and observed."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from dataclasses import asdict, is_dataclass
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from distwatch.errors import StateShapeError
from distwatch.statistics.arrays import namespace
from distwatch.statistics.basic_sums import BasicSums, measure
from distwatch.statistics.values import Quantity, Value

State = TypeVar("State", bound=tuple[Any, ...])


class Observation(NamedTuple):
    """What a statistic is given of one signal at one step, on the host or in the graph.

    ``delta`` is the signal minus its reference, ``signal`` the watched tensor itself,
    ``companion`` a tensor that belongs to it, such as the weight that an update changed,
    or None.
    """

    delta: Any
    signal: Any = None
    companion: Any = None


class Reductions(Protocol):
    """Reductions of an array over all replicas; the result is the same on each."""

    def sum(self, x: Any) -> Any:
        """The sum of the replicas' arrays, element by element."""

    def min(self, x: Any) -> Any:
        """The smallest of the replicas' elements at each place."""

    def max(self, x: Any) -> Any:
        """The largest of the replicas' elements at each place."""


class _FirstAxis:
    """`Reductions` over the first axis of NumPy arrays: the host's own collective."""

    sum = staticmethod(functools.partial(np.sum, axis=0))
    min = staticmethod(functools.partial(np.min, axis=0, initial=np.inf))
    max = staticmethod(functools.partial(np.max, axis=0, initial=-np.inf))


class Statistic(ABC, Generic[State]):
    """A mergeable summary: a monoid whose state is a tuple of equally shaped arrays.

    Laws (``distwatch.testing.laws`` checks them): ``merge`` is associative and
    commutative with ``empty`` as identity, and the merged states of any split of
    some values equal the state of the whole, up to rounding.

    A subclass is also the one record of what other rooms say about the statistic: the
    class attributes below. Unless a subclass says otherwise, its state adds up: the empty
    state is zeros, and merging is a sum.
    """

    #: What configuration files and stores call it.
    name: ClassVar[str] = ""
    #: The class of its state, a named tuple.
    state: ClassVar[Any]
    #: What ``compute`` gives.
    values: ClassVar[tuple[Value, ...]] = ()
    #: What figures draw of it.
    quantities: ClassVar[tuple[Quantity, ...]] = ()
    #: The kinds of selectors whose signals have it without being asked. It means nothing
    #: for other signals, so it cannot be asked for if there are any.
    automatic_for: ClassVar[tuple[str, ...]] = ()
    #: Its arguments in configuration files: name -> JSON Schema.
    parameters: ClassVar[dict[str, dict[str, Any]]] = {}

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the state's arrays, in order: columns of a row in the store."""
        return tuple(self.state._fields)

    def empty(self) -> State:
        """The state of no values (scalars, which broadcast against any shape)."""
        return self.unflatten((0.0,) * len(self.fields))

    @abstractmethod
    def observe(self, seen: Observation) -> State:
        """The state of one array of values, of any shape."""

    def merge(self, a: State, b: State) -> State:
        """The state of the values of ``a`` and of ``b`` together."""
        return self.unflatten(tuple(x + y for x, y in zip(a, b, strict=True)))

    def reduce_replicas(self, state: State, reductions: Reductions) -> State:
        """The state of all replicas' values, by reductions over the replicas."""
        return self.unpack(reductions.sum(self.pack(state)))

    @abstractmethod
    def compute(self, state: State) -> dict[str, npt.NDArray[Any]]:
        """What people read, on the host: name -> array of the state's shape."""

    @property
    def columns(self) -> int:
        """The number of fields, without making their names: a histogram may have millions."""
        return len(self.fields)

    @property
    def wide(self) -> bool:
        """Whether its columns are stored as an array of their own, without names."""
        return False

    def spec(self) -> dict[str, Any]:
        """Plain data from which `from_spec` makes it again: its name and its arguments."""
        return {"name": self.name, **(asdict(self) if is_dataclass(self) else {})}

    # Signals whose statistics are equal share a table.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, type(self)) and self.spec() == other.spec()

    def __hash__(self) -> int:
        return hash(repr(self.spec()))

    def flatten(self, state: State) -> tuple[Any, ...]:
        """The state's arrays in the order of ``fields``."""
        return tuple(state)

    def unflatten(self, arrays: tuple[Any, ...]) -> State:
        """The state whose arrays these are: undoes ``flatten``."""
        made: State = self.state(*arrays)
        return made

    def pack(self, state: State) -> Any:
        """Join a state's arrays of shape S to one of shape (\\*S, fields)."""
        arrays = self.flatten(state)
        return namespace(*arrays).stack(arrays, axis=-1)

    def check_columns(self, packed: Any) -> None:
        """Raise StateShapeError if the last dim is not one column a field."""
        if packed.shape[-1] != len(self.fields):
            # The columns of a histogram are too many to be listed.
            listed = "" if self.wide else f" ({', '.join(self.fields)})"
            raise StateShapeError(
                f"a packed state has {packed.shape[-1]} columns, expected "
                f"{len(self.fields)}{listed}; both sides must use the same statistics."
            )

    def unpack(self, packed: Any) -> State:
        """Take an array of shape (\\*S, fields) apart into a state.

        Raises:
            StateShapeError: the last dim is not one column a field.
        """
        self.check_columns(packed)
        return self.unflatten(tuple(packed[..., i] for i in range(len(self.fields))))


class Summed(Statistic[State]):
    """A statistic whose fields are among the sums that are computed once for all of them."""

    def from_sums(self, sums: BasicSums) -> State:
        """The state of the values that were summed up."""
        return self.unflatten(tuple(getattr(sums, field) for field in self.fields))

    def observe(self, seen: Observation) -> State:
        return self.from_sums(measure(seen.delta))


def observe(statistic: Statistic[State], values: npt.ArrayLike) -> State:
    """The state of one array of values, of any shape, on the host."""
    array = np.asarray(values)
    return statistic.observe(Observation(array.astype(np.float64), array, array))


def merge_axis(
    statistic: Statistic[State], packed: npt.NDArray[Any], axis: int
) -> npt.NDArray[Any]:
    """Merge packed states over one axis at once, on the host.

    Shapes: packed (..., n, ..., fields) -> the same without ``axis``; n may be 0.
    """
    state = statistic.unpack(np.moveaxis(packed, axis, 0))
    return np.asarray(statistic.pack(statistic.reduce_replicas(state, _FirstAxis())))
