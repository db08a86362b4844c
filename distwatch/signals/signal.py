"""One watched thing, as it is named and described in a run."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Signal:
    """One watched thing: its name in the store and what its delta is measured against.

    ``scaled`` is "unknown" for a loss or a gradient of one replica that was recorded as it was
    handed over, since it may be divided by the number of replicas already, or not.

    What else is known of it is None where it is not, as in older stores.
    """

    name: str
    reference: str = "previous"
    #: The activation layer whose output stands for this layer's, if one does.
    after: str | None = None
    #: How many operations compute it again at each step that is looked at; 0 where the
    #: training keeps it anyway.
    recomputed: int = field(default=0, compare=False)
    scaled: str | None = field(default=None, compare=False)
    #: Its place among all that layers put out, in the order in which a step calls them; that
    #: of a variable is that of its layer.
    order: int | None = field(default=None, compare=False)
    #: Whether the replicas hold copies of one variable, which are equal at all times; if
    #: not, each has a value of its own.
    copied: bool | None = field(default=None, compare=False)
    #: Whether the layer that puts it out has weights that are trained; None without any.
    trained: bool | None = field(default=None, compare=False)

    @property
    def is_one_number(self) -> bool:
        """Whether it is one number a replica and step, such as the loss, and recorded as it is.

        What belongs to a layer, a weight or the data has a kind before its name; ``input`` is a
        batch.
        """
        batch = self.name.partition(":")[0] == "input"
        return "/" not in self.name and not batch and self.reference == "none"
