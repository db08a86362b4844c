"""Whether runs can be written to a place: a made-up one is written, read back and removed."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from distwatch.cli.doctor.findings import Finding, graded, ok, problem
from distwatch.errors import ConfigError, DamagedStoreError, DistwatchError
from distwatch.records import Block, RunInfo
from distwatch.store import (
    StoredRun,
    StoreWriter,
    claim,
    is_run,
    location_of,
    made_up_block,
    made_up_info,
    now,
)
from distwatch.store.addresses import Address, address_of, inside, scheme_of
from distwatch.store.schema import root_attributes
from distwatch.text import format_bytes

#: The training that a place is measured against: signals, replicas, steps a second.
SIGNALS, REPLICAS, PACE = 40, 2, 100

#: Steps of a block, the default of Watch.
_STEPS = 256

#: Seconds of writing that are measured, each way.
SECONDS = 2.0

#: How many times faster than necessary a place has to be to be called OK.
_MARGIN = 3

#: Free bytes from which a place is called OK, and below which it is a problem.
_ROOM, _NO_ROOM = 2e9, 1e8

#: Syncing a file takes about 10 ms on a spinning disk.
_SLOW_SYNC_MS = 50

_SLOWER = (
    "record fewer steps (schedule: {every: 10}), choose fewer signals, or write to a disk of "
    "this machine; on_full: wait slows training down instead of losing rows."
)


@dataclass(frozen=True)
class Speed:
    """How many blocks of made-up rows were written in how much time, and their size."""

    blocks: int
    seconds: float
    #: As arrays in memory, and as files.
    raw: int
    stored: int

    @property
    def rate(self) -> float:
        """Blocks a second."""
        return self.blocks / self.seconds

    @property
    def figures(self) -> dict[str, float]:
        """For programs."""
        return {
            "blocks_per_second": self.rate,
            "raw_megabytes_per_second": self.raw / 1e6 / self.seconds,
            "stored_megabytes_per_second": self.stored / 1e6 / self.seconds,
        }


def look_at_target(target: str) -> Iterator[Finding]:
    """Whether runs can be written there, how fast, and how many of them."""
    try:
        address = place_of(target)
        state = "kept by the process only" if scheme_of(address) == "memory" else "writable"
        speed = measure(address)
    except (DistwatchError, OSError) as error:
        yield problem("place", f"{error}", "choose another --store, or fix this one.")
        return
    asked = address_of(target)
    shown = asked.absolute() if isinstance(asked, Path) else asked
    yield ok("place", f"{shown}, {state}")
    yield _writing(speed)
    if isinstance(address, Path):
        yield _syncing(measure(address, synced=True), address.parent)
        yield _free(address.parent, speed)


def place_of(target: str) -> Address:
    """An unused name, next to the run at ``target`` (existing or not), or in that folder.

    Raises:
        ConfigError: the URL cannot be understood, or a file is there.
    """
    name = f".distwatch-doctor-{uuid.uuid4().hex}.zarr"
    address = address_of(target)
    if isinstance(address, Path):
        folder = address.absolute()
        if folder.is_file():
            raise ConfigError(f"{folder} is a file; a run is a folder of its own.")
        if is_run(folder):
            folder = folder.parent
        # Watch makes folders that are missing; the doctor leaves none behind.
        while not folder.exists():
            folder = folder.parent
        return folder / name
    scheme, _, rest = address.partition("://")
    above, slash, _ = rest.rpartition("/")
    return inside(f"{scheme}://{above if slash else rest}", name[1:])


def measure(address: Address, *, synced: bool = False) -> Speed:
    """Write blocks for some `SECONDS`, as fast as they go, read them back, remove them.

    At least two are written, beyond one that is not counted.

    Args:
        address: where nothing is.
        synced: wait for the disk itself at each commit.

    Raises:
        StoreError: it cannot be written there, or is not what was written.
    """
    info = made_up_info(SIGNALS, REPLICAS, window=_STEPS)
    location = location_of(address)
    try:
        claim(address, root_attributes(info, now()), synced=synced)
        speed = _write(address, info, synced)
    except BaseException:
        # Nothing is left behind, not even after Ctrl-C; an error here must not hide the first.
        with contextlib.suppress(Exception):
            location.remove()
        raise
    location.remove()
    return speed


def _write(address: Address, info: RunInfo, synced: bool) -> Speed:
    random = np.random.default_rng(0)
    made = [made_up_block(info, number, random) for number in range(4)]
    location = location_of(address)
    writer = StoreWriter(address, info, synced=synced)
    # The first one also makes the arrays.
    writer.append(made[0])
    before = location.size_below()
    written, start = 1, time.perf_counter()
    while (took := time.perf_counter() - start) < SECONDS or written < 3:
        writer.append(_moved(made[written % len(made)], written))
        written += 1
    writer.close()
    _read_back(address, made, written)
    stored = location.size_below() - before
    blocks = written - 1
    return Speed(blocks, took, blocks * made[0].nbytes, stored)


def _moved(block: Block, number: int) -> Block:
    """The same rows at the steps of another block."""
    steps = np.arange(number * len(block), (number + 1) * len(block))
    return replace(block, step=steps, iteration=steps + 1)


def _read_back(address: Address, made: list[Block], written: int) -> None:
    (table,) = StoredRun(address).tables.values()
    length = len(made[0])
    last = table.read("rows", slice((written - 1) * length, written * length))
    expected = made[(written - 1) % len(made)].rows
    if table.steps != written * length or not np.array_equal(last, expected):
        raise DamagedStoreError(f"{address}: what was read is not what was written.")


def _writing(speed: Speed) -> Finding:
    needed = PACE / _STEPS
    too_slow = speed.rate < needed
    text = (
        f"{speed.rate:.3g} blocks/s, {format_bytes(speed.raw / speed.seconds)}/s; "
        f"{SIGNALS} signals on {REPLICAS} replicas at {PACE} steps/s need {needed:.2g} "
        f"blocks/s"
    )
    return graded(
        "writing",
        text,
        f"rows would be lost: {_SLOWER}" if too_slow else _SLOWER,
        speed.figures,
        is_problem=too_slow,
        is_warning=speed.rate < _MARGIN * needed,
    )


def _syncing(speed: Speed, folder: Path) -> Finding:
    took = 1000 * sync_seconds(folder)
    text = f"{took:.2g} ms a file; with durability: power {speed.rate:.3g} blocks/s"
    return graded(
        "sync to disk",
        text,
        "use another disk for durability: power.",
        {"sync_milliseconds": took, **speed.figures},
        is_warning=took > _SLOW_SYNC_MS,
    )


def sync_seconds(folder: Path, times: int = 8) -> float:
    """Seconds to sync a small file to the disk: the median of several."""
    took = []
    for _ in range(times):
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            file.write(bytes(4096))
            start = time.perf_counter()
            os.fsync(file.fileno())
            took.append(time.perf_counter() - start)
    return statistics.median(took)


def _free(folder: Path, speed: Speed) -> Finding:
    free = shutil.disk_usage(folder).free
    steps = free / (speed.stored / speed.blocks / _STEPS)
    text = (
        f"{format_bytes(free)}: {steps / 1e6:,.2g} million steps of {SIGNALS} signals on "
        f"{REPLICAS} replicas"
    )
    return graded(
        "free",
        text,
        "free some space, or limit the run: max_bytes: 1GB.",
        {"free_bytes": free},
        is_problem=free < _NO_ROOM,
        is_warning=free < _ROOM,
    )
