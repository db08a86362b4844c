"""The command line as a person calls it: for tests."""

import os
import re
import subprocess
import sys
from pathlib import Path

from distwatch.cli.conventions import REFUSED

BIN = Path(sys.executable).parent
HOSTILE = ["activation/[red]loud[/red]", "[/nonsense]", "[link=x]y", "two\nlines\x1b[31m"]

#: TensorFlow's own, with times, numbers of processes and addresses in them; how often it
#: has traced is watched by itself.
_START = re.compile(
    r"^(WARNING: All log|WARNING:tensorflow:\d+ out of the last|[IWE]\d{4} |\d{4}-\d\d-\d\d )"
    r".*\n",
    re.MULTILINE,
)
# Python 3.12 warns of forks in a process with threads, and names the process.
_PROCESS = re.compile(r"pid=\d+")


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


class Ended:
    """How a process ended, and what it said, without times."""

    def __init__(self, process, sent=None, *, timeout=200):
        out, err = process.communicate(sent, timeout=timeout)
        self.code = process.returncode
        self.out, self.err = out, _PROCESS.sub("pid=...", _START.sub("", err))

    @property
    def own_err(self):
        """Without what distwatch says."""
        return "".join(
            line for line in self.err.splitlines(True) if not line.startswith("distwatch: ")
        )


def start(command, folder, **environment):
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [*map(str, command)],
        cwd=folder,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "COLUMNS": "100", **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
