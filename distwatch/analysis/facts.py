"""Facts about a run besides its rows: as plain data, and as text for people."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from distwatch.records import TRAIN, Provenance
from distwatch.store import StoredRun
from distwatch.store.readable_tables import ReadableTable
from distwatch.store.schema import CLOSED, FORMAT
from distwatch.text import counted, format_bytes

#: Signals that a change names.
_NAMED = 2


def describe(stored: StoredRun) -> dict[str, Any]:
    """The facts about a run as plain data: what ``info --json`` prints.

    ``copies`` are the tables of checksums of the replicas' copies of variables. There are
    no tables before the first commit, and ``first_step`` and ``last_step`` are
    None in a table without steps. ``committed_steps`` is the largest of all tables,
    ``lost_steps`` the sum.
    """
    about = stored.info
    return {
        "path": str(stored.path),
        "format": FORMAT,
        "created": stored.created,
        "strategy": about.strategy,
        "phase": about.phase,
        "phases": stored.phases,
        "workers": about.workers,
        "replicas": list(about.replicas),
        "tables": stored.reading(lambda: [*map(_describe_table, stored.tables.values())]),
        "copies": stored.reading(lambda: [*map(_describe_table, stored.copies.values())]),
        "unwatched": about.unwatched,
        "committed_steps": stored.steps,
        "lost_steps": stored.lost,
        "thinned_steps": stored.thinned,
        "changes": [change.model_dump(mode="json") for change in stored.changes],
        "ended": stored.ended,
        "segments": [
            {
                "name": segment.name,
                "worker": segment.info.worker,
                "start": segment.info.origin.start,
                "first_step": segment.info.origin.step,
                "committed_steps": segment.steps,
                **_how_begun(segment.info.provenance),
            }
            for segment in stored.segments
        ],
        "bytes": stored.nbytes,
        "versions": about.versions,
    }


def _how_begun(provenance: Provenance | None) -> dict[str, Any]:
    if provenance is None:
        return {"began": None, "command": None, "commit": None}
    return asdict(provenance)


def _describe_table(stored: ReadableTable) -> dict[str, Any]:
    table = stored.table
    # Only the ends are read: there may be a million steps.
    first = stored.read("step", slice(0, 1))
    last = stored.read("step", slice(max(stored.steps - 1, 0), None))
    return {
        "name": table.name,
        "signals": [vars(signal) for signal in table.signals],
        "statistics": [statistic.spec() for statistic in table.statistic.further],
        "tensor": vars(table.tensor) if table.tensor else None,
        "schedule": table.schedule,
        "window": table.window,
        "committed_steps": stored.steps,
        "lost_steps": stored.lost,
        "first_step": int(first[0]) if len(first) else None,
        "last_step": int(last[0]) if len(last) else None,
    }


def facts_of(described: dict[str, Any]) -> list[tuple[str, str]]:
    """The facts of `describe` in words: name and text of each."""
    steps = described["committed_steps"]
    extent = f"{steps} committed"
    if steps:
        every = (*described["tables"], *described["copies"])
        tables = [table for table in every if table["committed_steps"]]
        first = min(table["first_step"] for table in tables)
        extent += f", from {first} to {max(table['last_step'] for table in tables)}"
    thinned = f"{described['thinned_steps']} steps of the old part, to stay within max_bytes"
    numbers = described["replicas"]
    replicas = str(len(numbers)) if numbers else ""
    if len(numbers) > 1:
        replicas += f" ({', '.join(map(str, numbers))})"
    versions = ", ".join(f"{name} {is_}" for name, is_ in described["versions"].items())
    return [
        ("run", described["path"]),
        ("created", described["created"] or "unknown"),
        ("strategy", described["strategy"]),
        ("phase", _phase(described)),
        ("replicas", replicas or "none has committed a row yet"),
        ("steps", extent),
        ("lost", _lost(described)),
        *([("thinned out", thinned)] if described["thinned_steps"] else []),
        *[("copies", _copies(table)) for table in described["copies"]],
        *([("copies", _NOT_COMPARED)] if _is_uncompared(described) else []),
        ("written", _written(described)),
        *provenance_of(described),
        ("size", format_bytes(described["bytes"])),
        ("versions", f"{versions}; store format {described['format']}"),
    ]


def provenance_of(described: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The command line and the git commit of `describe`, as far as they were recorded.

    Of several starts each other one is named, the first start's first.
    """
    first = min((each["worker"] for each in described["segments"]), default=0)
    for name, key in (("command", "command"), ("git commit", "commit")):
        starts = [each for each in described["segments"] if each["worker"] == first]
        said = [each[key] or "not recorded" for each in sorted(starts, key=_start)]
        different = [text for i, text in enumerate(said) if i == 0 or text != said[i - 1]]
        if any(each[key] for each in starts):
            yield name, ", and in a later start ".join(different)


def _start(segment: dict[str, Any]) -> int:
    return int(segment["start"])


def changes_in(described: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """What was changed while the run was written: step, signals, what holds from there, why."""
    names = {
        table["name"]: [signal["name"] for signal in table["signals"]]
        for table in described["tables"]
    }
    rows = []
    over = {(c["start"], c["step"]) for c in described["changes"] if c["what"] == "measured"}
    for change in described["changes"]:
        if change["what"] == "measuring" and (change["start"], change["step"]) in over:
            continue
        about = [name for table in change["tables"] for name in names.get(table, [table])]
        listed = ", ".join(change["patterns"] or about[:_NAMED])
        if not change["patterns"] and len(about) > _NAMED:
            listed += f" and {len(about) - _NAMED} more"
        step = str(change["step"])
        if change["until"] is not None:
            step += f" to {max(change['until'] - 1, change['step'])}"
        rows.append((step, listed, _what(change), _why(change)))
    return rows


def _what(change: dict[str, Any]) -> str:
    if change["what"] in ("measuring", "measured"):
        return "looked at by turns, to measure the cost"
    return str(change["schedule"] or change["what"])


def _why(change: dict[str, Any]) -> str:
    by = {"call": "asked for by watch.set", "file": "asked for by distwatch set"}
    asked = by.get(change["by"], "")
    return ": ".join(filter(None, (asked, change["why"])))


def taken_at(signal: dict[str, Any]) -> str:
    """Where in the step a signal of `describe` is taken, where that is not plain."""
    words = [f"after {signal['after']}"] if signal["after"] else []
    if again := signal["recomputed"]:
        words.append(f"computed again, {counted(again, 'operation')}")
    # Not everybody who writes a loop divides its loss by the number of replicas.
    if signal["scaled"] is not None:
        words.append("as handed over: may be divided by the number of replicas")
    return ", ".join(words)


_NOT_COMPARED = (
    "not compared: whether the replicas' weights stay equal is seen with distwatch.desync() "
    "among the signals"
)


def _is_uncompared(described: dict[str, Any]) -> bool:
    """Whether several replicas trained, and nothing compared their copies of variables."""
    several = len(described["replicas"]) > 1 and described["phase"] == TRAIN
    return several and bool(described["tables"]) and not described["copies"]


def _copies(table: dict[str, Any]) -> str:
    variables = counted(len(table["signals"]), "variable")
    steps = counted(table["committed_steps"], "step")
    return f"of {variables} compared at {steps}, {table['schedule']}"


def _lost(described: dict[str, Any]) -> str:
    lost = described["lost_steps"]
    if described["ended"] == CLOSED:
        return f"{lost} steps" if lost else "none"
    return f"{lost} steps, and maybe others after the last" if lost else "none before the last"


def _written(described: dict[str, Any]) -> str:
    ended = described["ended"]
    if ended is None:
        state = "still going on, or ended without being closed (killed, crashed)"
    else:
        state = "to its end" if ended == "closed" else f"until an error ended it: {ended}"
    starts = 1 + max((each["start"] for each in described["segments"]), default=0)
    return f"{state}, in {starts} starts" if starts > 1 else state


def _phase(described: dict[str, Any]) -> str:
    phase = described["phase"]
    others = ", ".join(each for each in described["phases"] if each != phase)
    return f"{phase} (also recorded, see --phase: {others})" if others else str(phase)
