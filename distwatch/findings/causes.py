"""What explains what: a finding that follows from another one is told as a part of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from distwatch.findings.findings import WARNING, Finding
from distwatch.findings.reasons import UNRELATED

#: Whether the first finding explains the second.
Explains = Callable[[Finding, Finding], bool]

#: What is a matter of arithmetic on rows, and means nothing once they hold NaN.
_OF_VALUES = ("dead", "no_gradient", "update_ratio", "spike")


#: Parts of a training that do not fit, and what comes of that.
_OF_SETUP = ("last_activation", "loss_function", "output_range", "first_weights")
_OF_LEARNING = (
    "not_learning", "underfitting", "flat_loss", "constant_output", "heavy_penalty",
    "nothing_general",
)  # fmt: skip
_OF_TRAINING = (*_OF_LEARNING, "dead", "no_gradient", "update_ratio", "spike")

#: From this share of its units on a dead layer lets nothing through.
_WHOLE = 0.95


def _later(cause: Finding, other: Finding) -> bool:
    return cause.step is not None and other.step is not None and other.step >= cause.step


def _dead_layer(cause: Finding, other: Finding) -> bool:
    """Behind a dead layer all values are others than before, and no gradient comes through."""
    if cause.severity != WARNING or cause.step is None or other.step is None:
        return False
    if other.kind == "spike":
        # What jumps before it, or is given to the model, may be why it died.
        after = cause.step <= other.step <= cause.step + 1
        return after and not (other.signal or "").startswith("input")
    whole = cause.share is not None and cause.share >= _WHOLE
    return whole and _at_rest(other) and _later(cause, other)


def _same_variables(cause: Finding, other: Finding) -> bool:
    """All that the other says is said of variables that the cause is about."""
    about = {_path(name) for name in (cause.signal, *cause.others) if name}
    also = {_path(name) for name in (other.signal, *other.others) if name}
    return also <= about and _at_rest(other)


def _at_rest(finding: Finding) -> bool:
    """Whether it says that variables do not change, or hardly."""
    ratio = "not changed" in finding.brief or "down to" in finding.brief
    return finding.kind == "no_gradient" or ratio


def _path(name: str) -> str:
    kinds = ("gradient_local", "gradient", "gradient_clipped", "update", "weight")
    kind, _, rest = name.partition("/")
    return rest if kind in kinds else name


def _nothing_passes(cause: Finding, other: Finding) -> bool:
    """All units of a layer are zero, and there is no other reason why nothing is learnt."""
    whole = cause.share is not None and cause.share >= _WHOLE and "dead_relu" in cause.faults
    return whole and other.kind == "not_learning" and other.faults[:1] == UNRELATED.faults


def _stuck(cause: Finding, other: Finding) -> bool:
    """Of one batch again and again little changes, and more when another one comes."""
    return _later(cause, other) if other.step is not None else _of_replica(cause, other)


def _of_replica(cause: Finding, other: Finding) -> bool:
    """What makes replicas differ may make all else differ between them, but of no other one."""
    return cause.replica is None or other.replica == cause.replica


#: Cause, what may follow from it, and whether it does; the first that explains it has it.
_EXPLAINS: tuple[tuple[str, tuple[str, ...], Explains], ...] = (
    *((kind, _OF_TRAINING, lambda cause, other: True) for kind in _OF_SETUP),
    ("not_finite", _OF_LEARNING, lambda cause, other: True),
    ("constant_output", ("flat_loss", "dead"), lambda cause, other: True),
    ("dead", ("not_learning",), _nothing_passes),
    ("not_learning", ("dead",), lambda cause, other: not _nothing_passes(other, cause)),
    ("not_learning", ("spike", "no_gradient"), lambda cause, other: True),
    ("underfitting", ("dead",), lambda cause, other: True),
    ("heavy_penalty", ("dead", "constant_output"), lambda cause, other: True),
    ("not_learning", ("nothing_general",), lambda cause, other: True),
    ("nothing_general", ("overfitting",), lambda cause, other: True),
    ("not_finite", _OF_VALUES, _later),
    ("without_gradient", ("no_gradient", "update_ratio"), _same_variables),
    ("dead", ("no_gradient", "update_ratio", "spike"), _dead_layer),
    ("no_gradient", ("update_ratio",), _same_variables),
    (
        "stuck_inputs",
        ("spike", "skewed_inputs", "odd_replica", "replicas_differ", "dead"),
        _stuck,
    ),
    ("skewed_inputs", ("odd_replica", "replicas_differ"), _of_replica),
    ("desync", ("copies_differ",), lambda cause, other: True),
    ("desync", ("odd_replica", "replicas_differ"), _of_replica),
    ("canary", ("odd_replica", "replicas_differ"), _of_replica),
    ("copies_differ", ("odd_replica", "replicas_differ"), lambda cause, other: True),
)


def folded(findings: Sequence[Finding]) -> list[Finding]:
    """The findings without those that follow from others, which say so."""
    follows: dict[int, list[int]] = {}
    explained: set[int] = set()
    for kind, kinds, explains in _EXPLAINS:
        causes = [i for i, each in enumerate(findings) if each.kind == kind]
        for i, other in enumerate(findings):
            cause = next((c for c in causes if c != i and explains(findings[c], other)), None)
            if other.kind in kinds and cause is not None and i not in explained:
                explained.add(i)
                follows.setdefault(cause, []).append(i)
    return [
        _with(each, tuple(findings[n] for n in _all_of(i, follows)))
        for i, each in enumerate(findings)
        if i not in explained
    ]


def _all_of(cause: int, follows: dict[int, list[int]]) -> list[int]:
    """What follows from a finding, and from that."""
    direct = follows.get(cause, [])
    return [*direct, *(further for each in direct for further in _all_of(each, follows))]


def _with(cause: Finding, follows: tuple[Finding, ...]) -> Finding:
    if not follows:
        return cause
    said = "; ".join(each.brief for each in follows) + _earlier(cause, follows)
    faults = cause.faults
    if cause.kind in _OF_LEARNING:
        # What the layers do is part of why nothing is learnt.
        own = [fault for each in follows if each.severity == WARNING for fault in each.faults]
        faults = tuple(dict.fromkeys((*cause.faults, *own)))
    return replace(
        cause, text=f"{cause.text} It explains: {said}.", follows=follows, faults=faults
    )


def _earlier(cause: Finding, follows: tuple[Finding, ...]) -> str:
    """By when NaN or Inf began, where something that follows is older than the first seen."""
    steps = [each.step for each in follows if each.step is not None]
    if cause.kind != "not_finite" or cause.step is None or not steps:
        return ""
    return f"; so they may have begun by step {min(steps)}" if min(steps) < cause.step else ""
