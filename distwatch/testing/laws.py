"""The laws of a statistic, to be held against any statistic, also one of your own.

::

    from hypothesis import given
    from distwatch.testing.laws import assert_statistic_laws, shards

    @given(shards())
    def test_laws(batches):
        assert_statistic_laws(MyStatistic(), batches)

Equal means equal up to rounding. How far rounding may carry a state is found by
moving the values themselves by a few units in the last place: a merge that errs no
more than that, or than ``rtol``, is right. So the variance of equal values, which
is nothing but rounding, is not held against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from distwatch.statistics import Statistic, merge_axis, observe

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy

Floats = npt.NDArray[np.float64]

#: Rounding of the values that no summation is blamed for.
_ULPS = 4.0 * np.finfo(np.float64).eps


def assert_statistic_laws(
    statistic: Statistic[Any], batches: Sequence[npt.ArrayLike], *, rtol: float = 1e-6
) -> None:
    """Hold the laws of a mergeable summary against a statistic.

    With a, b, c the states of ``batches``: identity, merge(empty, a) = a;
    commutativity, merge(a, b) = merge(b, a); associativity, merge(merge(a, b), c)
    = merge(a, merge(b, c)); split-invariance, the states of the batches, merged by
    ``merge``, ``reduce_replicas`` or ``merge_axis``, are the state of their concatenation;
    ``unpack`` undoes ``pack``; and nothing breaks where there are no values.

    Give batches that differ in size and mean, some of them empty: on equal batches
    of mean zero a wrong merge of variances looks right.

    Args:
        statistic: what is tested.
        batches: arrays of any shapes, one a replica; none, one or many.
        rtol: the largest relative error of any field of a state.

    Raises:
        AssertionError: a law is broken; the message names the law and the field,
            and says by how much.
    """
    parts = [np.asarray(batch, np.float64).ravel() for batch in batches]
    # Overflow and NaN are states to be merged, too, and no reason to warn.
    with np.errstate(all="ignore"):
        laws = _Laws(statistic, parts, rtol)
        laws.packing()
        laws.emptiness()
        laws.identity()
        laws.commutativity()
        laws.associativity()
        laws.split_invariance()


class _Laws:
    """The laws of one statistic on one set of parts."""

    def __init__(self, statistic: Statistic[Any], parts: list[Floats], rtol: float) -> None:
        self._statistic = statistic
        self._parts = parts
        self._states = [observe(statistic, part) for part in parts]
        self._rtol = rtol

    def packing(self) -> None:
        wanted = (len(self._statistic.fields),)
        for state in self._states:
            packed = self._pack(state)
            if packed.shape != wanted:
                raise AssertionError(f"pack: shape {packed.shape}, expected {wanted}.")
            again = self._pack(self._statistic.unpack(packed))
            if not np.array_equal(again, packed, equal_nan=True):
                raise AssertionError(f"unpack(pack): {again}, expected {packed}.")

    def emptiness(self) -> None:
        statistic = self._statistic
        nothing = np.zeros(0)
        empty = self._pack(statistic.empty())
        self._equal("the state of no values", statistic.empty(), nothing)
        self._equal("merge(empty, empty)", self._merge(), nothing)
        none = merge_axis(statistic, np.zeros((0, *empty.shape)), axis=0)
        self._equal("merge_axis of no states", statistic.unpack(none), nothing)
        for name, value in statistic.compute(statistic.empty()).items():
            if np.shape(value) != ():
                raise AssertionError(
                    f"compute(empty): {name} has shape {np.shape(value)}, expected ()."
                )

    def identity(self) -> None:
        empty = self._statistic.empty()
        for state, part in zip(self._states, self._parts, strict=True):
            self._equal("identity, merge(empty, a)", self._merge(empty, state), part)
            self._equal("identity, merge(a, empty)", self._merge(state, empty), part)

    def commutativity(self) -> None:
        for i, (a, b) in enumerate(zip(self._states, self._states[1:], strict=False)):
            whole = np.concatenate(self._parts[i : i + 2])
            law = f"commutativity of batches {i} and {i + 1}"
            self._equal(law, self._merge(a, b), whole, self._merge(b, a))

    def associativity(self) -> None:
        merge = self._merge
        triples = zip(self._states, self._states[1:], self._states[2:], strict=False)
        for i, (a, b, c) in enumerate(triples):
            whole = np.concatenate(self._parts[i : i + 3])
            law = f"associativity of batches {i} to {i + 2}"
            self._equal(law, merge(merge(a, b), c), whole, merge(a, merge(b, c)))

    def split_invariance(self) -> None:
        whole = np.concatenate([np.zeros(0), *self._parts])
        law = f"split-invariance over {len(self._parts)} batches, by "
        self._equal(law + "merge", self._merge(*self._states), whole)
        self._equal(law + "merge backwards", self._merge(*self._states[::-1]), whole)
        # Two signals, whose replicas come in opposite order and end in an idle one:
        # what is mixed up between the axes shows.
        rows = [self._pack(state) for state in [*self._states, self._statistic.empty()]]
        packed = np.stack([np.stack(rows), np.stack(rows[::-1])])
        merged = merge_axis(self._statistic, packed, axis=1)
        for row in merged:
            self._equal(law + "reduce_replicas", self._statistic.unpack(row), whole)

    def _merge(self, *states: Any) -> Any:
        return reduce(self._statistic.merge, states, self._statistic.empty())

    def _pack(self, state: Any) -> Floats:
        return np.asarray(self._statistic.pack(state), np.float64)

    def _equal(self, law: str, got: Any, values: Floats, want: Any = None) -> None:
        """Hold a state of ``values`` against ``want``, or against their own state."""
        exact = self._pack(observe(self._statistic, values))
        wanted = exact if want is None else self._pack(want)
        allowed = self._rtol * np.abs(wanted) + self._rounding(values, exact)
        packed = self._pack(got)
        error = np.abs(packed - wanted)
        # Equal infinities differ by NaN.
        same = (packed == wanted) | (np.isnan(packed) & np.isnan(wanted))
        for i in np.flatnonzero(~(same | (np.isfinite(wanted) & (error <= allowed)))):
            raise AssertionError(
                f"{type(self._statistic).__name__}: {law} is broken: "
                f"{self._statistic.fields[i]} is {packed[i]:.17g}, expected "
                f"{wanted[i]:.17g}: off by {error[i]:.3g}, allowed {allowed[i]:.3g}."
            )

    def _rounding(self, values: Floats, exact: Floats) -> Floats:
        """How far each field moves when the values move by a few units in the last place."""
        alternate = np.where(np.arange(values.size) % 2, -_ULPS, _ULPS)
        moved = [
            self._pack(observe(self._statistic, values * (1.0 + change)))
            for change in (_ULPS, alternate)
        ]
        furthest: Floats = np.maximum(*(np.abs(state - exact) for state in moved))
        return np.nan_to_num(furthest)


def shards(
    parts: int | None = None, *, largest: int = 20, special: bool = False
) -> SearchStrategy[list[Floats]]:
    """A Hypothesis strategy for what the replicas of one step see.

    Unequal shards, some of them empty, each with its own mean, near zero or ten
    thousand times its spread.

    Args:
        parts: how many shards; None for 1 to 8.
        largest: the largest number of values in a shard.
        special: put in zeros, NaN and infinities.

    Returns:
        A strategy for lists of float64 arrays of shape (values,). It needs
        Hypothesis: ``pip install 'distwatch[test]'``.
    """
    from hypothesis import strategies as st

    shard = st.builds(
        _shard,
        size=st.integers(0, largest),
        mean=st.sampled_from([0.0, 0.5, -3.0, 100.0, 1e4, -1e4, 1e4 + 3.0]),
        spread=st.sampled_from([0.0, 0.01, 1.0, 5.0]),
        seed=st.integers(0, 2**32 - 1),
        special=st.booleans() if special else st.just(False),
    )
    low, high = (parts, parts) if parts is not None else (1, 8)
    return st.lists(shard, min_size=low, max_size=high)


def _shard(size: int, mean: float, spread: float, seed: int, special: bool) -> Floats:
    random = np.random.default_rng(seed)
    values = mean + spread * random.standard_normal(size)
    if special:
        chosen = random.random(size) < 0.3
        values[chosen] = random.choice([0.0, np.nan, np.inf, -np.inf], chosen.sum())
    return values
