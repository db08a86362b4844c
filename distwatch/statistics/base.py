"""What a statistic is, and how its states are packed, merged and observed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from distwatch.errors import StateShapeError
from distwatch.statistics.arrays import namespace
from distwatch.statistics.basic_sums import BasicSums, measure

State = TypeVar("State", bound=tuple[Any, ...])


class Observation(NamedTuple):
    """What a statistic may look at: of one signal, on the host or in the graph.

    ``delta`` is what was measured, ``signal`` the watched value itself, ``beside`` a
    companion, such as the weight that an update changed.
    """

    delta: Any
    signal: Any = None
    companion: Any = None


class Reductions(Protocol):
    """Reductions of an array over all replicas; the result is the same on each."""

    def sum(self, x: Any) -> Any: ...
    def min(self, x: Any) -> Any: ...
    def max(self, x: Any) -> Any: ...


class _FirstAxis:
    """`Reductions` over the first axis of NumPy arrays: the host's own collective."""

    def sum(self, x: Any) -> Any:
        return np.sum(x, axis=0)

    def min(self, x: Any) -> Any:
        return np.min(x, axis=0, initial=np.inf)

    def max(self, x: Any) -> Any:
        return np.max(x, axis=0, initial=-np.inf)


class Statistic(ABC, Generic[State]):
    """A mergeable summary: a monoid whose state is a tuple of equally shaped arrays.

    Laws (``distwatch.testing.laws`` checks them): ``merge`` is associative and
    commutative with ``empty`` as identity, and the merged states of any split of
    some values equal the state of the whole, up to rounding.
    """

    @property
    @abstractmethod
    def fields(self) -> tuple[str, ...]:
        """The names of the state's arrays, in order: columns of a row in the store."""

    @abstractmethod
    def empty(self) -> State:
        """The state of no values (scalars, which broadcast against any shape)."""

    @abstractmethod
    def observe(self, seen: Observation) -> State:
        """The state of one array of values, of any shape."""

    @abstractmethod
    def merge(self, a: State, b: State) -> State:
        """The state of the values of ``a`` and of ``b`` together."""

    @abstractmethod
    def reduce_replicas(self, state: State, reductions: Reductions) -> State:
        """The state of all replicas' values, by reductions over the replicas."""

    @abstractmethod
    def compute(self, state: State) -> dict[str, npt.NDArray[Any]]:
        """What people read, on the host: name -> array of the state's shape."""

    @property
    def columns(self) -> int:
        """How many fields it has, which may be too many to name them for that."""
        return len(self.fields)

    @property
    def wide(self) -> bool:
        """Whether its columns are an array of their own, too many to be named one by one."""
        return False

    def spec(self) -> dict[str, Any]:
        """What `from_spec` makes it again from: plain data, with its name."""
        return {"name": type(self).__name__.lower()}

    def flatten(self, state: State) -> tuple[Any, ...]:
        """The state's arrays in the order of ``fields``."""
        return tuple(state)

    def unflatten(self, arrays: tuple[Any, ...]) -> State:
        """The state whose arrays these are: undoes ``flatten``."""
        return type(self.empty())(*arrays)

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
    """A statistic that takes all it needs from the one look that all share."""

    @abstractmethod
    def from_passes(self, passes: BasicSums) -> State:
        """The state of the values that were looked over."""

    def observe(self, seen: Observation) -> State:
        return self.from_passes(measure(seen.delta))


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
