"""What the tests of the store share: where a run may lie, and that claims end with a test."""

import pytest

from distwatch.store import locking


@pytest.fixture(params=["folder", "memory"])
def address(request, tmp_path):
    name = tmp_path / "run.zarr"
    return name if request.param == "folder" else f"memory:/{name}"


@pytest.fixture(autouse=True)
def released():
    """What a test has claimed is released after it."""
    yield
    for lock in list(locking._held.values()):
        lock.release()
