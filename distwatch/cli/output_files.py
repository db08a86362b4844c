"""Files that commands write: none is replaced unasked, and none is there half."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from distwatch.errors import ConfigError


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuse a path at which something is already.

    Raises:
        ConfigError: it is a folder; or a file, and ``overwrite`` was not asked for.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give the name of a file.")
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists already; give another name, or pass --overwrite.")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that replaces ``path`` once it is complete, and never before."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
