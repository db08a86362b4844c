"""What the groups of a run say of it, read from documents that may be anybody's.

Each value is checked to be of its kind and within bounds before it is believed; what is
refused is told with what was found. Sizes that are lists (of signals, of replicas) cannot
be larger than the document that they are in; those that are numbers have bounds here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from distwatch.errors import (
    DamagedStoreError,
    FormatVersionError,
    NotARunError,
)
from distwatch.records import PHASES, TRAIN, Origin, RunInfo, Table, TensorLayout, fitting
from distwatch.signals import Signal
from distwatch.statistics import from_spec
from distwatch.store.schema import ATTRIBUTE, FORMAT
from distwatch.text import shortened

#: Replicas of one run; more would not fit into what statistics such as ``checksum`` add up.
MOST_REPLICAS = 8192

#: No number of steps, workers or starts is larger.
MOST = 2**53

#: Letters of a name.
LONGEST_NAME = 4096

#: Letters of other texts that are kept: an error may have said much when a run ended.
LONGEST_TEXT = 65_536

#: Names of groups are names of folders, on any system.
_GROUP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

#: What reading values that are not what they should be raises.
_WRONG = (LookupError, TypeError, ValueError, AttributeError, RecursionError, OverflowError)


def check_format(attributes: Any, where: str) -> dict[str, Any]:
    """Return our attributes of a group.

    Raises:
        NotARunError: they are not there.
        FormatVersionError: another distwatch wrote them.
    """
    ours = attributes.get(ATTRIBUTE) if isinstance(attributes, dict) else None
    if not isinstance(ours, dict) or type(ours.get("format")) is not int:
        raise NotARunError(
            f"{where} is no distwatch run: it has no {ATTRIBUTE!r} attribute with a "
            "format number. Give the path that was given to Watch."
        )
    if ours["format"] != FORMAT:
        raise FormatVersionError(
            f"{where} is of store format {shortened(ours['format'])}, this distwatch reads "
            f"format {FORMAT}; "
            + (
                "update it: pip install -U distwatch."
                if ours["format"] > FORMAT
                else _NO_FORMAT
            )
        )
    return ours


_NO_FORMAT = "there is no such format, so the store is damaged or not from distwatch."


def segment_info(attributes: dict[str, Any], where: str) -> RunInfo:
    """Read what a segment's group says; its tables are read one by one.

    Raises:
        DamagedStoreError: something is missing or of the wrong kind.
    """
    try:
        return RunInfo(
            tables=(),
            replicas=_replicas(attributes["replicas"]),
            strategy=_text("strategy", attributes["strategy"]),
            versions=_texts("versions", attributes["versions"]),
            unwatched=_texts("unwatched", attributes["unwatched"]),
            phase=_one_of("phase", attributes["phase"], PHASES),
            worker=_whole("worker", attributes["worker"]),
            workers=_whole("workers", attributes["workers"], 1),
            origin=Origin(
                _whole("start", attributes["start"]),
                _whole("first_step", attributes["first_step"]),
                _whole("first_iteration", attributes["first_iteration"], -1),
            ),
        )
    except _WRONG as error:
        raise damaged(where, error) from error


def rowless_info(attributes: dict[str, Any], where: str) -> RunInfo:
    """Read, from the root's attributes, what is known of a run without rows.

    Raises:
        DamagedStoreError: something is of the wrong kind.
    """
    try:
        return RunInfo(
            tables=(),
            replicas=(),
            strategy=_text("strategy", attributes.get("strategy", "")),
            versions=_texts("versions", attributes.get("versions", {})),
            workers=_whole("workers", attributes.get("workers", 1), 1),
            phase=TRAIN,
        )
    except _WRONG as error:
        raise damaged(where, error) from error


def identity(attributes: dict[str, Any], where: str) -> tuple[str, str]:
    """By what a run is told from another one: its name, and when it was begun.

    Raises:
        DamagedStoreError: they are no texts.
    """
    try:
        name, created = (attributes.get(key, "") for key in ("run", "created"))
        return _text("run", name), _text("created", created)
    except _WRONG as error:
        raise damaged(where, error) from error


def table_groups(attributes: dict[str, Any], where: str) -> dict[str, str]:
    """The names of a segment's tables, and of the group that each is in.

    Raises:
        DamagedStoreError: they are missing, or no names of groups.
    """
    try:
        names = [_group("tables", name) for name in _list("tables", attributes["tables"])]
        # Runs that were written before tables could be thinned out say nothing of groups.
        groups = attributes.get("groups", {})
        found = {name: _group("groups", groups.get(name, name)) for name in names}
        if len(set(found.values())) < len(names):
            raise ValueError(f"tables={shortened(names)}, groups={shortened(groups)}")
        return found
    except _WRONG as error:
        raise damaged(where, error) from error


def table_info(attributes: dict[str, Any], name: str, where: str) -> Table:
    """Read a table's description from its attributes.

    Raises:
        DamagedStoreError: something is missing or of the wrong kind.
    """
    try:
        signals = _list("signals", attributes["signals"])
        table = Table(
            name=name,
            signals=tuple(
                Signal(_name("signal", each["name"]), _name("reference", each["reference"]))
                for each in signals
            ),
            schedule=_text("schedule", attributes["schedule"]),
            window=_whole("window", attributes["window"], 1),
            statistic=from_spec(_statistics(attributes["statistics"])),
            tensor=_layout(attributes["tensor"]),
        )
        _check_table(table, attributes["fields"])
        return table
    except _WRONG as error:
        raise damaged(where, error) from error


def _check_table(table: Table, fields: Any) -> None:
    if not table.signals or len(set(table.names)) < len(table.names):
        raise ValueError(f"signals={shortened(table.names)}, expected some, each once")
    if fields != list(table.fields):
        raise ValueError(f"fields={shortened(fields)}, expected {table.fields}")
    most = fitting(table).window
    if table.window > most:
        raise ValueError(
            f"window={table.window}, and of {len(table.signals)} signals at most {most} steps "
            "fit into a ring"
        )


def progress(attributes: dict[str, Any], where: str) -> tuple[int, int, int]:
    """Read how many steps a table has committed, lost, and thinned out.

    Raises:
        DamagedStoreError: one of them is missing or no number.
    """
    try:
        committed, lost = (_whole(key, attributes[key]) for key in ("committed", "lost"))
        return committed, lost, _whole("thinned", attributes.get("thinned", 0))
    except _WRONG as error:
        raise damaged(where, error) from error


def ended(attributes: dict[str, Any], where: str) -> str | None:
    """Read what ended the writing of a table; None while it is written, or if killed.

    Raises:
        DamagedStoreError: it is no text.
    """
    said = attributes.get("ended")
    try:
        return None if said is None else _text("ended", said)
    except _WRONG as error:
        raise damaged(where, error) from error


def damaged(where: str, error: Exception) -> DamagedStoreError:
    """Say that a description cannot be understood."""
    return DamagedStoreError(
        f"{where}: its description is damaged ({type(error).__name__}: "
        f"{shortened(str(error), quoted=False)})."
    )


def _whole(name: str, value: Any, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= MOST:
        raise ValueError(
            f"{name}={shortened(value)}, expected a whole number from {least} to {MOST}"
        )
    return value


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name}={shortened(value)}, expected a text")
    return value[:LONGEST_TEXT]


def _name(name: str, value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_NAME:
        raise ValueError(
            f"{name}={shortened(value)}, expected a name of up to {LONGEST_NAME} letters"
        )
    return value


def _texts(name: str, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise TypeError(f"{name}={shortened(value)}, expected names and texts")
    return {key[:LONGEST_NAME]: _text(f"{name}[...]", text) for key, text in value.items()}


def _list(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError(f"{name}={shortened(value)}, expected a list")
    return value


def _group(name: str, value: Any) -> str:
    if not isinstance(value, str) or not _GROUP.fullmatch(value):
        raise ValueError(f"{name}: {shortened(value)} is no name of a group")
    return value


def _one_of(name: str, value: Any, known: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name}={shortened(value)}, expected one of {', '.join(known)}")
    return value


def _replicas(written: Any) -> tuple[int, ...]:
    numbers = tuple(_whole("replica", number) for number in _list("replicas", written))
    known = all(number < 2**31 for number in numbers)
    if not 0 < len(numbers) <= MOST_REPLICAS or not known or len(set(numbers)) < len(numbers):
        raise ValueError(
            f"replicas={shortened(written)}, expected up to {MOST_REPLICAS} different numbers"
        )
    return numbers


def _statistics(written: Any) -> list[dict[str, Any]]:
    specs = _list("statistics", written)
    names = [spec["name"] for spec in specs]
    if len(set(names)) < len(names):
        raise ValueError(f"statistics={shortened(names)}, expected each once")
    return specs


def _layout(written: Any) -> TensorLayout | None:
    if written is None:
        return None
    features = _list("features", written["features"])
    if len(features) > 30:  # NumPy 1 has no more than 32 dims.
        raise ValueError(f"features={shortened(features)}, expected up to 30 sizes")
    reduce = written["reduce"]
    return TensorLayout(
        tuple(_whole("features", size) for size in features),
        None if reduce is None else _one_of("reduce", reduce, ("mean", "sum")),
        _one_of("dtype", written["dtype"], ("float32", "float16")),
    )
