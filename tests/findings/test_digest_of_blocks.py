"""A digest depends on the rows alone, to the last bit, not on the blocks in which they come."""

from dataclasses import replace

import numpy as np
import pytest
from made_runs import healthy

from distwatch.findings import Digest


def windowed(info, window):
    return replace(info, tables=tuple(replace(t, window=window) for t in info.tables))


def state_of(thing):
    """All numbers that something holds, by their places in it, as bits."""
    if isinstance(thing, np.ndarray):
        return thing.tobytes()
    if isinstance(thing, dict):
        return {key: state_of(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [state_of(value) for value in thing]
    return state_of(vars(thing)) if type(thing).__module__.startswith("distwatch") else thing


def digest_of(info, blocks, sizes):
    digest = Digest(info)
    for block in blocks:
        at = 0
        while at < len(block):
            size = next(sizes)
            digest.observe(block[at : at + size])
            at += size
    return digest


def random_sizes(seed):
    random = np.random.default_rng(seed)
    while True:
        yield int(random.integers(1, 24))


def all_at_once():
    while True:
        yield 10**6


@pytest.mark.parametrize("seed", range(6))
def test_it_does_not_depend_on_the_blocks(seed):
    info, blocks = healthy(seed, steps=157)
    info = windowed(info, 8)
    whole = digest_of(info, blocks, all_at_once())
    pieces = digest_of(info, blocks, random_sizes(seed))
    assert pieces.steps == whole.steps == sum(map(len, blocks))
    assert state_of(pieces.tables) == state_of(whole.tables)
    assert pieces.findings() == whole.findings()


def test_looking_at_it_meanwhile_changes_nothing():
    info, blocks = healthy(3, steps=90)
    info = windowed(info, 16)
    plain, looked_at = Digest(info), Digest(info)
    for block in blocks:
        for at in range(0, len(block), 7):
            plain.observe(block[at : at + 7])
            looked_at.observe(block[at : at + 7])
            looked_at.findings()
    assert state_of(looked_at.tables) == state_of(plain.tables)
    # The last rows count, although they fill no window.
    assert {t.steps for t in looked_at.tables.values()} == {len(block) for block in blocks}
