"""A run in a few plain sentences, made the same way live and afterwards.

A `Digest` takes blocks as they come and keeps only what the sentences need, so
a Watch can speak at the end of training without reading its store again, and
`Run.summary` says the same from the store. What it keeps does not grow with the
run, and does not depend on how the run was cut into blocks.
"""

from distwatch.findings.digest import Digest
from distwatch.findings.findings import NOTE, WARNING, Finding, ordered, sentences
from distwatch.findings.tables import TableDigest

__all__ = [
    "NOTE",
    "WARNING",
    "Digest",
    "Finding",
    "TableDigest",
    "ordered",
    "sentences",
]
