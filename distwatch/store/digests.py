"""What is known of a phase without reading its rows: a file beside them, for as long as it
stands for them.

It says which commits it was made of, and is used only while these are what the metadata say:
a crash between a commit and its digest leaves one that is not used. It may be missing, and be
deleted at any time.

Rejected: the sums themselves that findings are derived from, which take megabytes with many
signals and replicas, whatever the number of steps; the seals that the documents carry, which
documents of older versions do not have.
"""

from __future__ import annotations

import contextlib
import json
import math
import zlib
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from distwatch.errors import StoreError
from distwatch.phases import in_files
from distwatch.store.documents import MOST_BYTES as MOST_DOCUMENT
from distwatch.store.documents import path_of, understanding
from distwatch.store.locations import ROOT_DOCUMENT, Location
from distwatch.store.locking import is_lock_name, is_renewed
from distwatch.store.schema import ATTRIBUTE, FORMAT
from distwatch.store.value_types import MOST, Count, Name, PhaseName, Text

#: Bytes of a digest, whatever the number of steps.
MOST_BYTES = 2**20

#: What JSON has no numbers for.
_SPECIAL = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


#: What a commit says of a table, without its checksum: committed, lost, thinned, ended.
Counts = tuple[int, int, int, str | None]


def digest_name(phase: str) -> str:
    """The key of a phase's digest within its run."""
    return f"digest-{in_files(phase)}.json"


def _number(value: Any) -> Any:
    return _SPECIAL.get(value, value) if isinstance(value, str) else value


def _written_number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


Number = Annotated[
    float, BeforeValidator(_number), PlainSerializer(_written_number, when_used="json")
]
Whole = Annotated[int, Field(ge=-MOST, le=MOST)]
Checksum = Annotated[int, Field(ge=0, lt=2**32)]


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class FindingEntry(_Model):
    """One finding: see `distwatch.findings.Finding`."""

    kind: Name
    severity: Literal["note", "warning"]
    text: Text
    signal: Name | None = None
    step: Whole | None = None
    replica: Whole | None = None
    others: list[Name] = []
    brief: Text = ""
    share: Number | None = None
    follows: list[FindingEntry] = []
    rule: Text = ""
    value: Number | None = None
    threshold: Number | None = None
    evidence: dict[Text, Number] = {}
    confidence: Literal["certain", "likely"] = "likely"
    advice: Text = ""
    faults: list[Name] = []
    last_step: Whole | None = None


class KeptFindings(_Model):
    """What stands out in the rows.

    ``rules`` names the version of the rules: those of another one may find something else.
    ``bytes`` are those of all files of the tables, which missing or shortened chunks change.
    """

    rules: Name
    bytes: Count
    found: list[FindingEntry]


class Commit(_Model):
    """What a table's group said when the digest was made: see `schema.TableAttributes`.

    ``crc32`` is the checksum of the group's whole document, as it lies there.
    """

    committed: Count
    lost: Count
    thinned: Count = 0
    ended: Text | None = None
    crc32: Checksum

    @property
    def counts(self) -> Counts:
        """What it says, without its checksum."""
        return self.committed, self.lost, self.thinned, self.ended


class DigestDocument(_Model):
    """The digest of a phase.

    ``segments`` has the checksum of each segment's document, ``tables`` the commit of each
    table, by the path of its group. ``steps`` is how many the phase has: those of several
    segments overlap.
    """

    format: int = FORMAT
    phase: PhaseName
    segments: dict[Name, Checksum]
    tables: dict[Name, Commit]
    steps: Count | None = None
    findings: KeptFindings | None = None


class Source(NamedTuple):
    """What a digest is made of: a phase of a run, as it was committed when it was looked at.

    ``segments`` names its segments, ``counts`` is by the paths of the tables' groups.
    """

    location: Location
    phase: str
    segments: list[str]
    counts: dict[str, Counts]

    @property
    def nbytes(self) -> int:
        """Bytes of all files of the tables."""
        return sum(map(self.location.size_below, self.counts))


def read_digest(location: Location, phase: str) -> DigestDocument | None:
    """The digest of a phase, whatever it stands for; None if there is none.

    Raises:
        DamagedStoreError: it cannot be understood, or was changed.
    """
    name = digest_name(phase)
    content = location.read(name, MOST_BYTES + 1)
    if content is None:
        return None
    with understanding(path_of(location, name)):
        if len(content) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES} bytes")
        said = json.loads(content)
        seal = said.pop("crc32")
        if said["format"] != FORMAT:
            return None
        if seal != _seal(said):
            raise ValueError("it does not match its checksum")
        found = DigestDocument.model_validate(said)
        if found.phase != phase:
            raise ValueError(f"it is of the phase {found.phase}")
        return found


def is_current(location: Location, digest: DigestDocument) -> bool:
    """Whether a digest stands for what the documents say now."""
    kept = digest.segments | {path: table.crc32 for path, table in digest.tables.items()}
    return all(_crc32(_content(location, path)) == crc32 for path, crc32 in kept.items())


def is_of(source: Source, digest: DigestDocument) -> bool:
    """Whether a digest stands for a phase as it was looked at, and as it is committed now."""
    counts = {path: table.counts for path, table in digest.tables.items()}
    same = set(digest.segments) == set(source.segments) and counts == source.counts
    return same and is_current(source.location, digest)


def findings_in(source: Source, rules: str) -> list[FindingEntry] | None:
    """What stands out in the rows of a phase, by rules of this version.

    None where that is not kept, or not of these rows: if a chunk was removed or shortened,
    it is to be said.

    Raises:
        DamagedStoreError: the digest cannot be understood.
    """
    digest = read_digest(source.location, source.phase)
    kept = digest and digest.findings
    if not digest or not kept or kept.rules != rules or not is_of(source, digest):
        return None
    return kept.found if kept.bytes == source.nbytes else None


def steps_in(location: Location, phase: str, segments: list[str]) -> int | None:
    """How many steps a phase of these segments has; None if that is not kept."""
    with contextlib.suppress(StoreError):
        digest = read_digest(location, phase)
        if digest and set(digest.segments) == set(segments) and is_current(location, digest):
            return digest.steps
    return None


def may_be_kept(location: Location) -> bool:
    """Whether a reader may write a digest: into a run of its own that nobody writes.

    In a bucket nobody knows whose a run is.
    """
    if not location.is_ours(ROOT_DOCUMENT):
        return False
    locks = filter(is_lock_name, location.children())
    return not any(is_renewed(location.read(name)) for name in locks)


def file_with(
    source: Source,
    *,
    steps: int | None = None,
    findings: tuple[str, list[dict[str, Any]]] | None = None,
) -> tuple[str, bytes] | None:
    """The key and content of a phase's digest with something more in it.

    Args:
        source: what it was made of.
        steps: how many the phase has.
        findings: the version of the rules, and what they found, as plain values.

    Returns:
        None where the phase was changed since it was looked at, or where it would be too large.
    """
    digest = _empty(source)
    if digest is None:
        return None
    update: dict[str, Any] = {"steps": steps, "findings": None}
    if findings is not None:
        rules, found = findings
        kept = {"rules": rules, "bytes": source.nbytes, "found": found}
        update["findings"] = KeptFindings.model_validate(kept)
    with contextlib.suppress(StoreError):
        before = read_digest(source.location, source.phase)
        if before and (before.segments, before.tables) == (digest.segments, digest.tables):
            update = {
                key: getattr(before, key) if value is None else value
                for key, value in update.items()
            }
    said = json.loads(digest.model_copy(update=update).model_dump_json())
    content = json.dumps({**said, "crc32": _seal(said)}).encode()
    return (digest_name(source.phase), content) if len(content) <= MOST_BYTES else None


def keep(source: Source, **what: Any) -> None:
    """Keep something in the digest of a phase, where that may be; see `file_with`."""
    with contextlib.suppress(OSError, StoreError):
        if may_be_kept(source.location) and (file := file_with(source, **what)):
            source.location.write([file])


def _empty(source: Source) -> DigestDocument | None:
    """A digest that says only what it stands for; None where that was changed meanwhile."""
    tables = {path: _commit(_content(source.location, path)) for path in source.counts}
    if {path: table and table.counts for path, table in tables.items()} != source.counts:
        return None
    segments = {name: _crc32(_content(source.location, name)) for name in source.segments}
    return DigestDocument.model_validate(
        {"phase": source.phase, "segments": segments, "tables": tables}
    )


def _commit(content: bytes | None) -> Commit | None:
    if content is None:
        return None
    try:
        ours = json.loads(content)["attributes"][ATTRIBUTE]
        said = {
            key: ours[key] for key in ("committed", "lost", "thinned", "ended") if key in ours
        }
        return Commit(**said, crc32=zlib.crc32(content))
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


def _seal(said: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(said, sort_keys=True).encode())


def _content(location: Location, group: str) -> bytes | None:
    return location.read(f"{group}/{ROOT_DOCUMENT}", MOST_DOCUMENT)


def _crc32(content: bytes | None) -> int:
    """The checksum of a document as it lies there; that of nothing is no document's."""
    return zlib.crc32(content or b"")
