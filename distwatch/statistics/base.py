"""What a statistic is: how its states are observed, merged and packed, and what is read."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from distwatch.errors import StateShapeError
from distwatch.statistics.arrays import namespace

Floats = npt.NDArray[np.float64]

#: The values of some rows by their names, each an array of the rows' shape.
Values = Mapping[str, Any]

State = TypeVar("State", bound=tuple[Any, ...])


@dataclass(frozen=True)
class Value:
    """A number that people read: a variable of datasets, a column of exported files, the
    tag of a TensorBoard scalar.

    Args:
        name: what it is called in all of these.
        whole: whether it is a whole number, exported as int64.
        compared: whether nothing is known of it (NaN) where no two elements could be
            compared, as at the first step.
        logged: whether event files have it unless other values are asked for.
        special: whether it counts special elements; these are listed after the others.
    """

    name: str
    whole: bool = False
    compared: bool = False
    logged: bool = False
    special: bool = False


@dataclass(frozen=True)
class Quantity:
    """What figures draw over the steps, derived from values.

    Args:
        name: what ``run.plot`` calls it.
        change: its axis label for a change.
        value: its axis label for a signal that is watched itself (reference "none").
        rank: its place in menus. Where a report has no room for all quantities, those of
            the highest ranks are left out.
        of: derives it from values of shape (step, series, signal), where a series is a
            replica and the last one all replicas together; by default the value of the
            same name. Shape (step, series, signal), or (step, 1, signal) if ``merged_only``.
        merged_only: whether there is one only for all replicas together.
        signed: whether it can be negative: colours that show multiples of the median are
            refused then.
    """

    name: str
    change: str
    value: str
    rank: int
    of: Callable[[Values], Floats] | None = None
    merged_only: bool = False
    signed: bool = False

    def derive(self, values: Values) -> Floats:
        """The quantity of some rows; see ``of``."""
        return np.asarray(values[self.name] if self.of is None else self.of(values))

    def label(self, reference: str) -> str:
        """Its axis label for a signal that is measured against ``reference``."""
        return self.value if reference == "none" else self.change


def per_element(total: Any, count: Any) -> Floats:
    """``total / count``; NaN where ``count`` is 0."""
    return np.asarray(total / np.where(count > 0, count, np.nan))


def finite(values: Values) -> Any:
    """The number of finite elements."""
    return values["count"] - values["nans"] - values["infs"]


def special_elements(values: Values) -> Any:
    """The number of elements of a signal that are NaN or infinite.

    Where a run does not say (an older distwatch wrote it), those of the delta.
    """
    of_delta = values["nans"] + values["infs"]
    if "signal_nan_count" not in values:
        return of_delta
    own = values["signal_nan_count"] + values["signal_inf_count"]
    return np.where(np.isnan(own), of_delta, own)


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
    #: Whether every signal has it without being asked.
    of_every_signal: ClassVar[bool] = False
    #: Whether it came after the first version: older runs do not have it, and it is not
    #: known there.
    added_later: ClassVar[bool] = False
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

    def observe_all(self, seen: Sequence[Observation]) -> Any:
        """The packed states of several arrays: shape (array, column)."""
        states = [self.pack(self.observe(each)) for each in seen]
        return namespace(*states).stack(states)

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
        """Check the number of columns of an array of shape (\\*S, fields).

        Raises:
            StateShapeError: the last dim is not one column a field.
        """
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


def observe(statistic: Statistic[State], values: npt.ArrayLike) -> State:
    """The state of one array of values, of any shape, on the host.

    It is observed as float64, and as its own dtype where a statistic reads the signal.
    """
    array = np.asarray(values)
    return statistic.observe(Observation(array.astype(np.float64), array, array))


def merge_axis(
    statistic: Statistic[State], packed: npt.NDArray[Any], axis: int
) -> npt.NDArray[Any]:
    """Merge packed states over one axis at once, on the host.

    Args:
        statistic: what they are states of.
        packed: shape (..., n, ..., fields); n may be 0.
        axis: which axis has length n.

    Returns:
        Shape (..., fields): that of ``packed`` without ``axis``.

    Raises:
        StateShapeError: the last dim is not one column a field.
    """
    state = statistic.unpack(np.moveaxis(packed, axis, 0))
    return np.asarray(statistic.pack(statistic.reduce_replicas(state, _FirstAxis())))
