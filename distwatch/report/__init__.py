"""A run as one HTML file that opens without a network, and its figures as images.

``reading`` reads the runs, ``contents`` makes the data of the page, ``page`` renders it,
``images`` makes PNGs, ``writing`` writes files. The page's own parts are ``page.html``,
``page.css`` and ``page.js``.
"""

from distwatch.report.images import require_images
from distwatch.report.reading import ReadRun, check_patterns, read_runs
from distwatch.report.writing import check_page, write_images, write_page

__all__ = [
    "ReadRun",
    "check_page",
    "check_patterns",
    "read_runs",
    "require_images",
    "write_images",
    "write_page",
]
