"""What the program of a page calls for its blocks that are not Python: see documents.py."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from distwatch.config import read_config

ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "COLUMNS": "100",
}
# Programs are read with warnings as errors; the commands that they call are not.
ENVIRONMENT.pop("PYTHONWARNINGS", None)


def write(name: str, text: str) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def shell(text: str) -> None:
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], env=ENVIRONMENT, check=True, timeout=240
    )


def check_configuration(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "watch.yaml"
        path.write_text(text)
        read_config(path)
