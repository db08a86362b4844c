"""Rules that are asked while a training goes on take nothing back.

``test_verdicts`` holds real trainings to the same.
"""

import numpy as np
import pytest
from live_verdicts import Verdicts, wrong_live
from made_runs import healthy
from made_trainings import FAULTY, SOUND, card_of, dense, falling, made_training, one_of

from distwatch.findings import (
    AFTER_EPOCH,
    AT_END,
    AT_ONCE,
    RULES,
    WARNING,
    Digest,
    Finding,
    Rule,
    as_rule,
)

#: Steps of an epoch of the made-up trainings.
EPOCH = 32


def nan_at(made):
    made["activations"][40:, 1, 3, 0] = np.nan


def twins(made):
    made["checksum"][20:, 2] = made["checksum"][20:, 0]


def stuck(made):
    made["checksum"][50:70, 1] = made["checksum"][50, 1]


MADE = {
    **{f"sound: {name}": lambda case=case: made_training(*case[:2], **case[2])
       for name, case in SOUND.items()},
    **{f"faulty: {name}": lambda case=case: made_training(*case[:2], **case[2])
       for name, case in FAULTY.items()},
    **{f"healthy {seed}": lambda seed=seed: healthy(seed) for seed in range(3)},
    **{each.__name__: lambda plant=each: healthy(plant=plant)
       for each in (nan_at, twins, stuck)},
}  # fmt: skip


def judged_on_the_way(info, blocks, every=4):
    """What is said of the first 4, 8, ... steps by the rules that are asked then."""
    kept, digest = Verdicts(), Digest(info)
    end = max(int(block.step[-1]) for block in blocks) + 1
    for start in range(0, end, every):
        for block in blocks:
            now = np.flatnonzero((block.step >= start) & (block.step < start + every))
            if len(now):
                digest.observe(block[now[0] : now[-1] + 1])
        when = {AT_ONCE, AFTER_EPOCH} if start + every >= EPOCH else {AT_ONCE}
        found = digest.findings(ended=None, asked=lambda rule, when=when: rule.asked in when)
        kept.append((start + every, False, found))
    kept.append((end, True, digest.findings()))
    return kept


@pytest.mark.parametrize("name", MADE)
def test_nothing_is_taken_back(name):
    verdicts = judged_on_the_way(*MADE[name]())
    assert wrong_live(verdicts, verdicts.whole) == ""
    if not name.startswith("faulty"):
        warned = {each.kind for each in verdicts.whole if each.severity == WARNING}
        assert {finding.kind for _, finding in verdicts.early} <= warned


@pytest.mark.parametrize(
    ("name", "kind", "step"),
    [(nan_at, "not_finite", 40), (twins, "same_inputs", 24), (stuck, "stuck_inputs", 60)],
)
def test_what_is_certain_is_said_soon(name, kind, step):
    early = judged_on_the_way(*MADE[name.__name__]()).early
    assert min(at for at, finding in early if finding.kind == kind) <= step + 4


def test_data_are_judged_once_all_of_them_were_seen():
    """At first the targets seem to be halves; later ones are whole."""
    targets = one_of(4)
    card = card_of(dense("out", 4, "softmax"), loss="categorical_crossentropy")
    soft = targets.copy()
    soft[:8] *= 0.5
    made = made_training(card, falling(1.4, 0.2), targets=soft)
    digest = Digest(made[0])
    for block in made[1]:
        digest.observe(block[:8])
    assert "loss_function" in [each.kind for each in digest.findings()]
    assert judged_on_the_way(*made).early == []
    soft[:] = 0.5 * targets
    early = judged_on_the_way(*made_training(card, falling(1.4, 0.2), targets=soft)).early
    assert min(step for step, finding in early if finding.kind == "loss_function") == EPOCH


def test_rules_of_the_course_wait_for_its_end():
    assert {rule.name for rule in RULES if rule.asked == AT_ONCE} == {
        "NonFinite", "Desync", "Canary", "CopiesDiffer", "EqualInputs", "StepsLost",
        "WithoutGradient",
    }  # fmt: skip
    assert {rule.name for rule in RULES if rule.asked == AFTER_EPOCH} == {
        "LastActivation", "LossFunction", "OutputRange",
    }  # fmt: skip


def test_a_plain_function_is_asked_at_once_and_a_rule_when_it_says():
    def mine(run):
        """Mine."""
        yield Finding("mine", WARNING, "Mine.")

    info, blocks = healthy()
    digest = Digest(info)
    for block in blocks:
        digest.observe(block)

    def kinds(rule):
        found = digest.findings(rules=[rule], asked=lambda rule: rule.asked == AT_ONCE)
        return [each.kind for each in found]

    assert kinds(mine) == ["mine"]
    assert as_rule(mine).name == "mine"
    assert kinds(Rule("Mine", mine, asked=AT_END)) == []
