"""A run as one HTML file that opens without a network, and its figures as images.

``places`` says where the page goes, ``reading`` reads the runs, ``contents`` makes the data of
the page, ``page`` renders and writes it, ``images`` makes PNGs. The page's own parts are
``page.html``, ``page.css`` and ``page.js``.
"""

from distwatch.report.images import require_images, write_images
from distwatch.report.page import check_page, write_page
from distwatch.report.places import page_beside, replaced_by
from distwatch.report.reading import ReadRun, check_patterns, read_runs

__all__ = [
    "ReadRun",
    "check_page",
    "check_patterns",
    "page_beside",
    "read_runs",
    "replaced_by",
    "require_images",
    "write_images",
    "write_page",
]
