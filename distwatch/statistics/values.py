"""What people read from a statistic: declared next to it, read by every other room."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

#: The values of some rows by their names, each an array of the rows' shape.
Values = Mapping[str, Any]


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
