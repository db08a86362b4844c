"""Findings that lie beside a run's rows, so that these need not be read again."""

from __future__ import annotations

import warnings

from distwatch.errors import DamagedDigestWarning, DamagedStoreError
from distwatch.findings import Digest, Finding, as_plain, from_plain, version
from distwatch.store import StoredRun


def kept(store: StoredRun) -> list[Finding] | None:
    """What the rows say, if that is kept: what `Digest.findings` would give; None if not.

    A digest that cannot be understood is not used, and a `DamagedDigestWarning` says so.
    """
    try:
        said = store.kept_findings(version())
        return None if said is None else [*map(from_plain, said)]
    except DamagedStoreError as error:
        warnings.warn(f"{error} The rows are read instead.", DamagedDigestWarning, stacklevel=4)
        return None


def keep(store: StoredRun, digest: Digest, found: list[Finding]) -> None:
    """Keep what a digest finds, if it is of all rows of a run that is closed and ours."""
    every = sum(table.steps for table in store.every_table.values())
    if digest.info == store.info and digest.steps == every:
        store.keep_findings(version(), [*map(as_plain, found)])


def differing(store: StoredRun, found: list[Finding]) -> list[str]:
    """Where what is kept differs from what the rows say, in words.

    Args:
        store: the run.
        found: what its rows say.

    Raises:
        DamagedStoreError: what is kept cannot be understood.
    """
    said = store.kept_findings(version())
    if said is None:
        return []
    kept_ = [from_plain(each) for each in said]
    false = [
        f"it says, and the rows do not: {each.text}" for each in kept_ if each not in found
    ]
    missing = [f"it does not say: {each.text}" for each in found if each not in kept_]
    order = ["it has the findings in another order"] if kept_ != found else []
    return false + missing or order
