"""Findings that lie beside a run's rows, so that these need not be read again."""

from __future__ import annotations

import warnings

from distwatch.errors import DamagedDigestWarning, DamagedStoreError
from distwatch.findings import Digest, Finding, as_plain, from_plain, version
from distwatch.store import StoredRun, digests


def read(store: StoredRun) -> list[Finding] | None:
    """What the rows say, if that is kept: what `Digest.findings` would give; None if not.

    Raises:
        DamagedStoreError: the digest cannot be understood.
    """
    said = digests.findings_in(store.source, version(store.epochs))
    return None if said is None else [from_plain(each.model_dump()) for each in said]


def kept(store: StoredRun) -> list[Finding] | None:
    """The same; a digest that cannot be understood is not used, and a warning says so."""
    try:
        return read(store)
    except DamagedStoreError as error:
        warnings.warn(f"{error} The rows are read instead.", DamagedDigestWarning, stacklevel=4)
        return None


def keep(store: StoredRun, digest: Digest, found: list[Finding]) -> None:
    """Keep what a digest finds, if it is of all rows of a run that is closed and ours."""
    every = sum(table.steps for table in store.every_table.values())
    if digest.info == store.info and digest.steps == every and not store.damaged:
        findings = version(digest.epochs), [*map(as_plain, found)]
        digests.keep(store.source, steps=store.steps, findings=findings)


def differing(kept: list[Finding], found: list[Finding]) -> list[str]:
    """Where kept findings differ from what the rows say, in sentences."""
    false = [f"It says what the rows do not: {each.text}" for each in kept if each not in found]
    missing = [f"It does not say: {each.text}" for each in found if each not in kept]
    if kept == found:
        return []
    return [*false, *missing] or ["It says the same in another order."]
