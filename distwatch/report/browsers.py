"""Finding the browser that renders images."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

#: The names of browsers that kaleido can use.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def browser() -> str | None:
    """Where Chromium or Chrome is: where BROWSER_PATH says, or by its usual names."""
    named = os.environ.get("BROWSER_PATH")
    if named:
        return named if Path(named).is_file() else None
    found = (shutil.which(name) for name in BROWSERS)
    return next((path for path in found if path), None)
