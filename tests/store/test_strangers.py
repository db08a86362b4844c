"""A store from a stranger is safe to open: it is refused, at once and in little memory."""

import json
import subprocess
import sys

import pytest
import strangers

#: Seconds in which any of them is refused, on a machine that has much else to do.
AT_ONCE = 10

SPOILED = {
    **{f"run-{name}": (strangers.run_at, *how) for name, how in strangers.REFUSED.items()},
    **{
        f"tensors-{name}": (strangers.tensor_run_at, *how)
        for name, how in strangers.REFUSED_TENSORS.items()
    },
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """What came of opening each spoiled run, in a process of little memory."""
    folder = tmp_path_factory.mktemp("strangers")
    paths = []
    for name, (make, spoil, _) in SPOILED.items():
        paths.append(make(folder / f"{name}.zarr"))
        spoil(paths[-1])
    ended = subprocess.run(
        [sys.executable, "-W", "error", strangers.__file__, folder, *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
        timeout=AT_ONCE * len(paths),
    )
    assert ended.returncode == 0, ended.stderr
    said = map(json.loads, ended.stdout.splitlines())
    return dict(zip(SPOILED, said, strict=True))


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_run_is_refused(outcomes, name):
    kind, words, seconds = outcomes[name]
    assert kind in ("DamagedStoreError", "NotARunError"), words
    assert SPOILED[name][2] in words
    assert len(words) < 2_000
    assert seconds < AT_ONCE
