"""The command line as a person calls it: for tests."""

import os
import subprocess
import sys
from pathlib import Path

from distwatch.cli.conventions import REFUSED

BIN = Path(sys.executable).parent
HOSTILE = ["activation/[red]loud[/red]", "[/nonsense]", "[link=x]y", "two\nlines\x1b[31m"]


def command(*arguments, cwd=None):
    """Run the installed command in a process of its own."""
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "COLUMNS": "100"}
    return subprocess.run(
        [BIN / "distwatch", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=quiet,
        check=False,
        timeout=240,
    )


def assert_refused(ended, *parts):
    code, out, err = ended
    assert code == REFUSED
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    for part in parts:
        assert part in err
