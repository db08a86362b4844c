"""What the taps have in common whose checksums are taken between two steps."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import tensorflow as tf

from distwatch.training.device.copies import Compared
from distwatch.training.strategies import StrategyFacts
from distwatch.training.taps.tap import PickedSignal, Tap


class BetweenStepsTap(Tap):
    """A tap of checksums of what every replica should have the same bits of."""

    computes = True
    #: Why there is nothing to compare: on one replica, and under another kind of strategy.
    one_replica: ClassVar[str]
    not_mirrored: ClassVar[str]

    @abstractmethod
    def compared(self, picked: Sequence[PickedSignal]) -> Compared:
        """What gives the checksums of these signals."""

    def why_not(self, facts: StrategyFacts) -> str | None:
        """Why there is nothing to compare under a strategy; None if there is."""
        if facts.has_copies:
            return None
        one = facts.total_replicas == 1
        return self.one_replica if one else self.not_mirrored.format(facts.kind)

    def check(self) -> None:
        """See `Tap.check`."""
        if why := self.why_not(self.watched.facts):
            self.hopeless = True
            self.request.give_up(why)

    @staticmethod
    def signal(name: str, variable: Any = None) -> PickedSignal:
        """A signal that no tensor of the step carries."""
        with tf.init_scope():
            nothing = tf.constant(0.0)
        return PickedSignal(name, nothing, copied=True, variable=variable)
