"""Where the browser is that figures are drawn by."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

#: What browsers that kaleido can use are called.
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def browser() -> str | None:
    """Where Chromium or Chrome is: where BROWSER_PATH says, or by its usual names."""
    named = os.environ.get("BROWSER_PATH")
    if named:
        return named if Path(named).is_file() else None
    found = (shutil.which(name) for name in BROWSERS)
    return next((path for path in found if path), None)
