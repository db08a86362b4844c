"""Opening what was committed: never more, never half of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.storage import LocalStore

from distwatch.errors import DamagedStoreError, NotARunError
from distwatch.records import Block, Floats, Ints
from distwatch.store import schema


class StoredRun:
    """A run on disk, as it was committed when this was opened.

    Args:
        path: what was given to Watch.

    Raises:
        NotARunError: there is no run.
        FormatVersionError: a newer distwatch wrote it.
        DamagedStoreError: it contradicts its own description.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        root = _open(self.path, None)
        attributes = schema.check_format(dict(root.attrs), str(path))
        self.created = str(attributes.get("created", ""))
        self._group = self._segment()
        if self._group is None:
            self.info = schema.rowless_info(attributes, str(path))
            self.steps = self.lost = 0
            return
        where = f"{path}/{self._group.path}"
        said = schema.check_format(dict(self._group.attrs), where)
        self.info = schema.run_info(said, where)
        self.steps, self.lost = schema.progress(said, where)
        self._check_shapes(where)

    @property
    def segment(self) -> str | None:
        """The name of the group that holds the rows; None where none was written."""
        return self._group.path if self._group is not None else None

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        total = 0
        for file in self.path.rglob("*"):
            # A writer may take a temporary file away in between.
            with contextlib.suppress(FileNotFoundError):
                total += file.stat().st_size if file.is_file() else 0
        return total

    def coordinate(self, name: str, steps: slice = slice(None)) -> Ints:
        """``step``, ``epoch`` or ``iteration``: shape (step,)."""
        return np.asarray(self._read(name, (steps,), (0,)), np.int64)

    def rows(self, steps: slice = slice(None), signals: slice = slice(None)) -> Floats:
        """Per-replica states: shape (step, replica, signal, field)."""
        shape = (0, len(self.info.replicas), len(self.info.signals), len(self.info.fields))
        return np.asarray(self._read("rows", (steps, slice(None), signals), shape), np.float64)

    def merged(self, steps: slice = slice(None), signals: slice = slice(None)) -> Floats:
        """States merged over replicas: shape (step, signal, field)."""
        shape = (0, len(self.info.signals), len(self.info.fields))
        return np.asarray(self._read("merged", (steps, signals), shape), np.float64)

    def blocks(self) -> Iterator[Block]:
        """The run in pieces of one chunk each, in order of step."""
        for start in range(0, self.steps, self.info.window):
            steps = slice(start, min(start + self.info.window, self.steps))
            yield Block(
                step=self.coordinate("step", steps),
                epoch=self.coordinate("epoch", steps),
                iteration=self.coordinate("iteration", steps),
                rows=self.rows(steps),
                merged=self.merged(steps),
            )

    def _segment(self) -> zarr.Group | None:
        # A segment without its document was killed before its first commit.
        committed = self.path.glob("worker-*/zarr.json")
        names = sorted(document.parent.name for document in committed)
        if len(names) > 1:
            raise DamagedStoreError(
                f"{self.path} holds {len(names)} segments ({', '.join(names)}); "
                "this distwatch writes and reads one."
            )
        return _open(self.path, names[0]) if names else None

    def _check_shapes(self, where: str) -> None:
        for spec in schema.GROWING:
            sizes = {
                "step": self.steps,
                "replica": len(self.info.replicas),
                "signal": len(self.info.signals),
                "field": len(self.info.fields),
            }
            wanted = tuple(sizes[dim] for dim in spec.dims)
            got = getattr(self._array(spec.name), "shape", None)
            if got != wanted:
                raise DamagedStoreError(
                    f"{where}: array {spec.name!r} is of shape {got}, its group says "
                    f"{wanted}; the store was changed by something else than distwatch."
                )

    def _array(self, name: str) -> Any:
        return self._group.get(name) if self._group is not None else None

    def _read(self, name: str, where: tuple[slice, ...], empty: tuple[int, ...]) -> Any:
        if self._group is None:
            return np.zeros(empty)
        try:
            return np.asarray(self._array(name)[where])
        except (ValueError, RuntimeError, OSError) as error:
            raise DamagedStoreError(
                f"{self.path}/{self.segment}: array {name!r} cannot be read at "
                f"{where[0]} ({type(error).__name__}: {error}); a chunk is damaged."
            ) from error


def _open(path: Path, group: str | None) -> zarr.Group:
    if not path.is_dir():
        raise NotARunError(f"{path} is no distwatch run: there is no such folder.")
    try:
        return zarr.open_group(LocalStore(path, read_only=True), path=group, mode="r")
    except Exception as error:
        # Zarr raises many kinds of errors on documents that are not its own.
        if group is not None:
            raise schema.damaged(f"{path}/{group}", error) from error
        raise NotARunError(
            f"{path} is no distwatch run ({type(error).__name__}: {error}). "
            "Give the path that was given to Watch."
        ) from error
