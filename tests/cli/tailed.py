"""Runs that `distwatch tail` follows, written bit by bit: for its tests."""

import io
import re

import numpy as np
from rich.console import Console

from distwatch.cli.following import Follower, Wanted
from distwatch.records import RunInfo, Table
from distwatch.signals import Signal
from distwatch.store import StoreWriter, claim
from distwatch.store.schema import root_attributes
from distwatch.testing.fake import fake_block

MAIN = "from distwatch.cli import main; main()"
NAMES = ("activation/a", "activation/deep/b", "gradient/a")
HOSTILE = ("activation/[red]x[/red]", "[/nonsense]", "two\nlines\x1b[31m", "\u6df1\u5c64/" * 9)
CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
WINDOW = 8


def info_of(names=NAMES, replicas=2, workers=1, worker=0, **others):
    table = Table("table-00", tuple(Signal(name) for name in names), "every(1)", WINDOW)
    mine = tuple(range(worker * replicas, (worker + 1) * replicas))
    return RunInfo((table,), mine, "made up", {}, worker=worker, workers=workers, **others)


def delta(step, replica, place):
    """Replica 1 lies far out, and its values are spread more widely than those of 0."""
    rng = np.random.default_rng([step, replica, place])
    return rng.normal(5.0 * (replica == 1), 1.0 + replica, 6) / (1 + place)


def block(info, steps, values=delta):
    return fake_block(info, info.tables[0], steps, values)


def begin(path, *infos, run="a run"):
    claim(path, root_attributes(infos[0], "2026-01-01T00:00:00+00:00", run))
    writers = [StoreWriter(path, info) for info in infos]
    return writers[0] if len(writers) == 1 else writers


def write(writer, info, steps, values=delta):
    writer.append(block(info, list(steps), values))
    writer.commit_tail()


def look(path, **wanted):
    return Follower(str(path), Wanted(**wanted)).look()


def drawn(picture, width=100):
    console = Console(width=width, file=io.StringIO())
    console.print(picture)
    return console.file.getvalue()
