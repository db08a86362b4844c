"""The command line: each command is a module here that registers itself with the app.

Exit codes: 0 all is well, 1 distwatch refused (the reason is one line on stderr),
2 the command line itself is wrong, 130 ``tail`` was interrupted by Ctrl-C.
"""

from __future__ import annotations

import importlib
import sys

from rich.console import Console
from rich.text import Text

from distwatch.cli.conventions import REFUSED, app
from distwatch.errors import DistwatchError
from distwatch.text import printable

#: In the order in which ``--help`` lists them.
COMMANDS = (
    "demo",
    "run",
    "ls",
    "info",
    "tail",
    "check",
    "rules",
    "set",
    "report",
    "diff",
    "verify",
    "estimate",
    "overhead",
    "export",
    "config",
    "doctor",
)

for _command in COMMANDS:
    importlib.import_module(f"distwatch.cli.{_command}")


def main() -> None:
    """Run the command line; what distwatch refuses is a red line and exit code 1.

    Several mistakes in a file are a line each.
    """
    # A name in a store may contain characters that the output cannot encode.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        app(prog_name="distwatch")
    except DistwatchError as error:
        first, *further = str(error).split("\n  ")
        said = "\n  ".join([f"error: {printable(first)}", *map(printable, further)])
        Console(stderr=True).print(Text(said, style="red"), soft_wrap=True)
        raise SystemExit(REFUSED) from None
