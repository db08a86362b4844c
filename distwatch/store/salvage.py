"""Reading what is left of a damaged table: all steps in whose chunks nothing is damaged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from distwatch.errors import DamagedStoreError
from distwatch.records import Ints
from distwatch.store.readable_tables import ALL, Array, DerivedTable
from distwatch.store.schema import COORDINATES
from distwatch.store.tables import Damage, StoredTable

#: What is known of a step whose epoch or iteration cannot be read; see FORMAT.md.
_UNKNOWN = -1

#: Coordinates without which a row is still a row.
_SPARE = COORDINATES[1:]


class WholeRows(DerivedTable):
    """A table without the steps that are in damaged chunks.

    Epochs and iterations that cannot be read are -1, and their steps stay.

    Args:
        stored: the table.
        damage: what is damaged in it.
    """

    _stored: StoredTable

    def __init__(self, stored: StoredTable, damage: Sequence[Damage]) -> None:
        readable = np.ones(stored.steps, bool)
        for each in damage:
            if each.array not in _SPARE:
                readable[each.first : each.stop] = False
        self._places: Ints = np.flatnonzero(readable)
        super().__init__(stored, len(self._places))
        #: How its writing ended.
        self.ended = stored.ended

    def read(self, name: str, steps: slice = ALL, signals: slice = ALL) -> Array:
        """See `ReadableTable.read`."""
        places = self._places[steps]
        if not len(places):
            return self._stored.read(name, slice(0, 0), signals)
        runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
        parts = [self._part(name, slice(int(r[0]), int(r[-1]) + 1), signals) for r in runs]
        return np.concatenate(parts)

    def verify(self) -> Iterator[tuple[int, Damage | None]]:
        """See `StoredTable.verify`: all chunks, the damaged ones, too."""
        return self._stored.verify()

    def _part(self, name: str, steps: slice, signals: slice) -> Array:
        try:
            return self._stored.read(name, steps, signals)
        except DamagedStoreError:
            if name not in _SPARE:
                raise
            return np.full(steps.stop - steps.start, _UNKNOWN, np.int64)


def without_damage(stored: StoredTable) -> tuple[WholeRows, list[Damage]]:
    """A table without what cannot be read, and what that is."""
    found = [damage for _, damage in stored.verify() if damage is not None]
    # Nobody reads the labels: the description says the same.
    found = [each for each in found if stored.grows(each.array)]
    return WholeRows(stored, found), found
