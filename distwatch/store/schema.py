"""The layout of a run: names, dims, dtypes and attributes (see FORMAT.md)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from distwatch.errors import DamagedStoreError, FormatVersionError, NotARunError
from distwatch.records import RunInfo
from distwatch.signals import Signal

FORMAT = 1

#: The one attribute that everything of ours stands under, at the root and in a segment.
ATTRIBUTE = "distwatch"

#: The group of one worker's rows since one start.
SEGMENT = "worker-{worker:04d}-start-{start:04d}"


@dataclass(frozen=True)
class ArraySpec:
    """One array that grows along ``step``: its dims, dtype and fill."""

    name: str
    dims: tuple[str, ...]
    dtype: str
    fill: float


GROWING = (
    ArraySpec("step", ("step",), "int64", -1),
    ArraySpec("epoch", ("step",), "int64", -1),
    ArraySpec("iteration", ("step",), "int64", -1),
    ArraySpec("rows", ("step", "replica", "signal", "field"), "float64", float("nan")),
    ArraySpec("merged", ("step", "signal", "field"), "float64", float("nan")),
)

#: Inner chunks of ``rows`` and ``merged`` span at most this many signals, so that
#: one signal's history is read without the others.
SIGNALS_PER_CHUNK = 8


def root_attributes(info: RunInfo, created: str) -> dict[str, Any]:
    """What the root group says of a run before its first row."""
    return {
        ATTRIBUTE: {
            "format": FORMAT,
            "created": created,
            "strategy": info.strategy,
            "versions": info.versions,
        }
    }


def segment_attributes(info: RunInfo, committed: int, lost: int) -> dict[str, Any]:
    """What a segment's group says; replacing it commits ``committed`` rows a replica."""
    return {
        ATTRIBUTE: {
            "format": FORMAT,
            "committed": committed,
            "lost": lost,
            "window": info.window,
            "schedule": info.schedule,
            "signals": [asdict(signal) for signal in info.signals],
            "replicas": list(info.replicas),
            "fields": list(info.fields),
            "strategy": info.strategy,
            "versions": info.versions,
            "unwatched": info.unwatched,
        }
    }


def check_format(attributes: dict[str, Any], where: str) -> dict[str, Any]:
    """Return our attributes of a group.

    Raises:
        NotARunError: they are not there.
        FormatVersionError: another distwatch wrote them.
    """
    ours = attributes.get(ATTRIBUTE)
    if not isinstance(ours, dict) or type(ours.get("format")) is not int:
        raise NotARunError(
            f"{where} is no distwatch run: it has no {ATTRIBUTE!r} attribute with a "
            "format number. Give the path that was given to Watch."
        )
    if ours["format"] != FORMAT:
        raise FormatVersionError(
            f"{where} is of store format {ours['format']}, this distwatch reads format "
            f"{FORMAT}; "
            + (
                "update it: pip install -U distwatch."
                if ours["format"] > FORMAT
                else _NO_FORMAT
            )
        )
    return ours


_NO_FORMAT = "there is no such format, so the store is damaged or not from distwatch."


def run_info(attributes: dict[str, Any], where: str) -> RunInfo:
    """Read a run's description from a segment's attributes.

    Raises:
        DamagedStoreError: something is missing or of the wrong kind.
    """
    try:
        return RunInfo(
            signals=tuple(
                Signal(str(signal["name"]), str(signal["reference"]))
                for signal in attributes["signals"]
            ),
            replicas=tuple(int(number) for number in attributes["replicas"]),
            strategy=str(attributes["strategy"]),
            window=int(attributes["window"]),
            schedule=str(attributes["schedule"]),
            versions=dict(attributes["versions"]),
            fields=tuple(map(str, attributes["fields"])),
            unwatched=dict(attributes["unwatched"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(where, error) from error


def progress(attributes: dict[str, Any], where: str) -> tuple[int, int]:
    """Read how many steps a segment has committed and lost.

    Raises:
        DamagedStoreError: one of them is missing or no number.
    """
    try:
        return int(attributes["committed"]), int(attributes["lost"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(where, error) from error


def rowless_info(attributes: dict[str, Any], where: str) -> RunInfo:
    """Read, from the root's attributes, what is known of a run without rows.

    Raises:
        DamagedStoreError: something is of the wrong kind.
    """
    try:
        return RunInfo(
            signals=(),
            replicas=(),
            strategy=str(attributes.get("strategy", "")),
            window=1,
            schedule="",
            versions=dict(attributes.get("versions", {})),
        )
    except (TypeError, ValueError) as error:
        raise damaged(where, error) from error


def damaged(where: str, error: Exception) -> DamagedStoreError:
    """Say that a description cannot be understood."""
    return DamagedStoreError(
        f"{where}: its description is damaged ({type(error).__name__}: {error})."
    )
