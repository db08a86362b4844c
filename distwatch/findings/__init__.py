"""What stands out in a run, found the same way during training and afterwards.

A `Digest` takes blocks as they come and keeps only what the rules need, so a Watch can print
findings at the end of training without reading its store, and `Run.summary` finds the same in
the store. What it keeps does not grow with the run, and does not depend on how the run was cut
into blocks. ``digest`` lists the rules: what is looked for; those of ``setup`` and ``learning``
look at a training as a whole, its ``course``.
"""

from distwatch.findings.copy_digest import minority
from distwatch.findings.digest import RULES, Digest
from distwatch.findings.findings import (
    EXTENT,
    FAULTS,
    NOTE,
    WARNING,
    Finding,
    document,
    named,
    ordered,
    sentences,
)
from distwatch.findings.kept import as_plain, from_plain, version
from distwatch.findings.rules import AFTER_EPOCH, AT_END, AT_ONCE, Rule, as_rule
from distwatch.findings.tables import TableDigest

__all__ = [
    "AFTER_EPOCH",
    "AT_END",
    "AT_ONCE",
    "EXTENT",
    "FAULTS",
    "NOTE",
    "RULES",
    "WARNING",
    "Digest",
    "Finding",
    "Rule",
    "TableDigest",
    "as_plain",
    "as_rule",
    "document",
    "from_plain",
    "minority",
    "named",
    "ordered",
    "sentences",
    "version",
]
