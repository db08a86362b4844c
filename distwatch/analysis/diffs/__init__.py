"""Where two runs part: `diff`, and the rule that it goes by."""

from distwatch.analysis.diffs.comparing import diff
from distwatch.analysis.diffs.result import RunDifference, SignalDifference

__all__ = ["RunDifference", "SignalDifference", "diff"]
