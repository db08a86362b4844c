"""Planted faults are found where they are, and in healthy runs there are none."""

import numpy as np
import pytest
from made_runs import cut, healthy, run_of, table_of

from distwatch.findings import NOTE, WARNING, Digest, Finding, sentences
from distwatch.findings.timeline import STRETCHES

SOUND = ["extent", "largest_change", "replicas_apart", "sound"]


def digest_of(info, blocks, size=None):
    digest = Digest(info)
    for block in blocks:
        for piece in [block] if size is None else cut(block, size):
            digest.observe(piece)
    return digest


def found(kind, plant=None, **how):
    findings = digest_of(*healthy(plant=plant, **how)).findings()
    assert findings[0].kind == "extent"
    return [finding for finding in findings if finding.kind == kind]


def others(kind, plant=None, **how):
    findings = digest_of(*healthy(plant=plant, **how)).findings()
    return [each for each in findings if each.kind not in (kind, *SOUND)]


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize(("steps", "replicas"), [(15, 4), (60, 2), (130, 3)])
def test_nothing_is_found_in_a_healthy_run(seed, steps, replicas):
    findings = digest_of(*healthy(seed, steps=steps, replicas=replicas)).findings()
    assert [finding.kind for finding in findings] == SOUND
    assert {finding.severity for finding in findings} == {NOTE}


def test_the_extent_and_what_is_sound():
    first, *_, last = digest_of(*healthy(steps=30)).sentences()
    assert first == "30 steps, 7 signals on 4 replicas."
    # Its activations were looked at in one step less than its inputs.
    assert last == "No NaN and no Inf at the steps that are recorded. No row was lost."


def test_what_was_turned_off_is_not_said_to_be_sound():
    """Its rows have no gap, and say nothing of the steps after them."""

    def said(looked_at):
        values = np.random.default_rng(0).normal(2.0, 1.0, (20, 2, 6, 1))
        off = table_of(0, values[:looked_at], {"activation/a": "previous"})
        return digest_of(*run_of(off, table_of(1, values, {"loss": "none"}))).sentences()[-1]

    assert said(20) == "No NaN and no Inf in what is recorded. No row was lost."
    assert said(10) == "No NaN and no Inf at the steps that are recorded. No row was lost."


def test_of_one_replica_nothing_is_said_of_comparing():
    findings = digest_of(*healthy(steps=30, replicas=1)).findings()
    assert [finding.kind for finding in findings] == [
        kind for kind in SOUND if kind != "replicas_apart"
    ]
    assert "replica" not in " ".join(each.text for each in findings[1:])


def test_two_that_have_nothing_in_common_cannot_be_compared():
    """Rows of one step are there, but only one replica's batch had anything in it."""
    values = np.full((6, 2, 8), np.nan)
    values[:, 0] = np.random.default_rng(0).normal(3.0, size=(6, 8))
    table = table_of(0, values[..., None], {"activation/a": "previous"})
    (finding,) = [
        each for each in digest_of(*run_of(table)).findings() if each.kind == "replicas_apart"
    ]
    assert finding.text.endswith("values of one signal recorded on two of them.")


@pytest.mark.parametrize("replicas", [3, 4, 8])
@pytest.mark.parametrize("odd", [0, 2])
@pytest.mark.parametrize("seed", range(5))
def test_a_shifted_replica_is_the_odd_one(seed, replicas, odd):
    def plant(made):
        made["gradients"][:, odd, :, 1] += 0.5 * made["gradients"][..., 1].std()

    (finding,) = found("odd_replica", plant, seed=seed, replicas=replicas)
    assert (finding.replica, finding.signal) == (odd, "gradient_local/output")
    assert finding.severity == WARNING
    assert finding.text.startswith(f"Replica {odd} differs from the others in gradient_local/")
    assert not others("odd_replica", plant, seed=seed, replicas=replicas)


@pytest.mark.parametrize("replicas", [3, 4, 5, 8])
@pytest.mark.parametrize("seed", range(8))
def test_a_replica_far_off_does_not_make_the_others_look_odd(seed, replicas):
    # The average of the others, which each is compared with, is then far off, too.
    odd = seed % replicas

    def plant(made):
        made["gradients"][:, odd, :, 1] -= 6 * made["gradients"][..., 1].std()

    (finding,) = found("odd_replica", plant, seed=seed, replicas=replicas)
    assert finding.replica == odd


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_replica_that_spreads_otherwise_is_the_odd_one(factor):
    def plant(made):
        made["activations"][:, 1] *= factor

    (finding,) = found("odd_replica", plant)
    assert finding.replica == 1
    assert set(finding.others) | {finding.signal} == {"activation/hidden", "activation/output"}
    said = float(finding.text.split("standard deviation is ")[1].split()[0])
    assert said == pytest.approx(factor, rel=0.1)


def test_a_replica_that_never_changes():
    def plant(made):
        made["activations"][:, 3] = 0.0

    (finding,) = found("odd_replica", plant)
    assert finding.replica == 3
    assert "it never changes on this replica, but does elsewhere" in finding.text


def test_two_odd_replicas_among_many_are_told_apart_from_the_rest():
    def plant(made):
        made["gradients"][:, 1] += 1.0 * made["gradients"].std()
        made["gradients"][:, 5] -= 1.0 * made["gradients"].std()

    assert [each.replica for each in found("odd_replica", plant, replicas=8)] == [1, 5]


def test_of_two_replicas_none_is_called_odd():
    def plant(made):
        made["gradients"][:, 0] += made["gradients"].std()

    (finding,) = found("replicas_differ", plant, replicas=2)
    assert "Replica 1 differs from replica 0" in finding.text
    assert not found("odd_replica", plant, replicas=2)


def test_replicas_that_all_differ_have_no_odd_one():
    def plant(made):
        made["gradients"] += np.arange(4.0)[None, :, None, None]

    (finding,) = found("replicas_differ", plant)
    assert "The other replicas differ among themselves, too." in finding.text
    assert not found("odd_replica", plant)


def test_a_step_alone_makes_no_replica_odd():
    def plant(made):
        made["activations"][50, 2] += 1000.0

    assert not found("odd_replica", plant)
    assert not found("replicas_differ", plant)


@pytest.mark.fast_cases("?")
@pytest.mark.parametrize("seed", range(20))
def test_what_lasts_for_some_steps_is_no_skew(seed):
    """Of steps that resemble their neighbours each tells less, so errors are larger."""

    def plant(made):
        rng = np.random.default_rng(seed)
        lasting = rng.normal(size=(960, 4))
        for step in range(1, 960):
            lasting[step] = 0.95 * lasting[step - 1] + 0.3 * lasting[step]
        made["gradients"] = 0.1 * rng.normal(size=(960, 4, 24, 2))
        made["gradients"] += lasting[:, :, None, None]

    assert not others("spike", plant, steps=960)


def test_a_shift_that_is_sure_but_small_is_not_told():
    def plant(made):
        made["activations"][:, 2] += 0.1
        made["gradients"][:] = np.random.default_rng(0).normal(size=made["gradients"].shape)
        made["gradients"][:, 2] += 0.15

    assert not others("spike", plant, steps=960)


def test_skewed_inputs_are_told_as_such():
    def plant(made):
        made["inputs"][:, 2] += 3.0

    (finding,) = found("skewed_inputs", plant)
    assert (finding.replica, finding.signal) == (2, "input")
    assert finding.text.startswith("Replica 2 is given different data in input than the others")


def test_pairs_of_equal_inputs_are_told_once():
    def plant(made):
        made["checksum"][:, 1] = made["checksum"][:, 0]
        made["checksum"][:7, 3] = made["checksum"][:7, 2]

    (finding,) = found("same_inputs", plant)
    assert finding.text == (
        "Replicas 0 and 1 were given the same input at 120 of 120 steps. "
        "The same holds for 1 more pair, at as many steps or fewer."
    )


@pytest.mark.parametrize(
    ("upto", "words"), [(None, "up to the end"), (90, "most recently at step 89")]
)
def test_nan_is_told_from_first_to_last(upto, words):
    def plant(made):
        made["gradients"][70:upto, 1, 3, 1] = np.nan
        made["updates"][71:upto, :, :, 0] = np.inf

    (finding,) = found("not_finite", plant)
    assert (finding.step, finding.replica, finding.signal) == (70, 1, "gradient_local/output")
    assert finding.others == ("update/hidden/kernel",)
    assert f"and {50 if upto is None else 20} steps, {words}" in finding.text
    sound = found("sound", plant)
    assert [each.text for each in sound] == ["No row was lost."]


@pytest.mark.parametrize(
    ("step", "replicas", "said"),
    [(70, slice(None), True), (70, slice(1, 2), False), (0, slice(None), False)],
)
def test_nan_on_all_replicas_at_once_came_by_the_weights(step, replicas, said):
    """Not so if one replica has it, whose batch may hold it, or if it was so from the start."""
    values = np.random.default_rng(0).normal(1.0, 1.0, (80, 3, 20, 2))
    values[step:, replicas] = np.nan
    signals = {"activation/a": "none", "activation/b": "none"}
    (finding,) = [
        each
        for each in digest_of(*run_of(table_of(0, values, signals))).findings()
        if each.kind == "not_finite"
    ]
    assert ("either weights were spoiled before" in finding.text) == said


@pytest.mark.parametrize("share", [0.7, 1.0])
def test_dead_units(share):
    def plant(made):
        made["activations"][60:, :, : int(24 * share), 0] = 0.0

    (finding,) = found("dead", plant)
    assert finding.signal == "activation/hidden"
    assert finding.severity == (WARNING if share == 1.0 else NOTE)
    assert finding.text.startswith("All" if share == 1.0 else "7")
    # Row 0 has no batch before it.
    assert "did not change at all from step 59 on" in finding.text


def test_units_that_are_dead_for_a_while_are_not_dead():
    def plant(made):
        made["activations"][:80, :, :, 0] = 0.0

    assert not found("dead", plant)


def test_zeros_of_values_are_let_through_further():
    values = np.random.default_rng(0).normal(1.0, 1.0, (40, 2, 20, 1))
    signals = {"activation/x": "none"}
    values[:, :, :15] = 0.0
    assert "dead" not in kinds(digest_of(*run_of(table_of(0, values, signals))))
    values[:, :, :18] = 0.0
    dead = digest_of(*run_of(table_of(0, values, signals))).findings()
    assert [each.text[:41] for each in dead if each.kind == "dead"] == [
        "90% of the elements of activation/x were "
    ]


def kinds(digest):
    return [finding.kind for finding in digest.findings()]


@pytest.mark.parametrize(
    ("factor", "severity", "words"),
    [
        (3e3, WARNING, "the training may be unstable"),
        (3e2, NOTE, "the training may be unstable"),
        (1e-3, NOTE, "it hardly learns any more"),
        (1e-6, WARNING, "it hardly learns any more"),
        (0.0, WARNING, "not changed by any step"),
    ],
)
def test_update_ratios_out_of_range(factor, severity, words):
    def plant(made):
        made["updates"][-40:, ..., 0] *= factor

    (finding,) = found("update_ratio", plant, steps=160)
    assert (finding.signal, finding.severity, finding.step) == (
        "update/hidden/kernel",
        severity,
        120,
    )
    assert words in finding.text


def test_update_ratios_of_the_beginning_are_not_told():
    def plant(made):
        made["updates"][:60] *= 1e4

    assert not found("update_ratio", plant)


def test_gradients_that_do_not_arrive():
    def plant(made):
        made["gradients"][-40:, ..., 0] = 0.0

    (finding,) = found("no_gradient", plant)
    assert finding.signal == "gradient_local/hidden"


def test_a_spike_is_told_from_a_large_signal():
    def plant(made):
        made["gradients"][77, :, :, 0] *= 100
        made["activations"] *= 1e4

    (finding,) = found("spike", plant)
    assert (finding.signal, finding.step) == ("gradient_local/hidden", 77)
    assert finding.severity == WARNING
    times = float(finding.text.split(", ")[1].split()[0])
    assert 50 < times < 200
    (largest,) = found("largest_change", plant)
    assert largest.signal == "activation/hidden"


def test_what_the_beginning_does_is_no_spike():
    def plant(made):
        made["gradients"][:3] *= 1e4

    assert not found("spike", plant)
    (largest,) = found("largest_change", lambda made: made["activations"][3].__imul__(9.0))
    assert largest.step == 2


def test_the_largest_is_measured_beside_what_is_usual():
    def plant(made):
        made["activations"][..., 0] *= 100
        made["activations"][31, :, :, 1] *= 5

    (finding,) = found("largest_change", plant)
    # Row 0 has no batch before it.
    assert finding.signal == "activation/hidden"
    assert "of activation/output at step 30: " in finding.text
    said = float(finding.text.split(", ")[-1].split()[0])
    assert said == pytest.approx(5, rel=0.5)


def test_a_change_where_there_usually_is_none():
    values = np.zeros((40, 2, 20, 1))
    values[7] = 3.0
    run = run_of(table_of(0, values, {"activation/x": "previous"}))
    (finding,) = [f for f in digest_of(*run).findings() if f.kind == "largest_change"]
    assert "is 3 (its median is 0), in activation/x at step 7" in finding.text


def test_lost_rows():
    digest = digest_of(*healthy())
    assert (
        "7 steps lost, counted in each table that looks at them: see the gaps in `step`."
        in digest.sentences(lost=7)
    )
    assert digest.sentences(lost=7)[-1] == "No NaN and no Inf at the steps that are recorded."


def test_many_findings_are_cut_short():
    many = [Finding("extent", NOTE, str(i)) for i in range(25)]
    assert sentences(many[:10]) == [str(i) for i in range(10)]
    assert sentences(many) == [*map(str, range(9)), "And 16 more findings."]


def everything(made):
    made["gradients"][77, :, :, 0] *= 100
    made["gradients"][:, 2] += 0.5
    made["gradients"][40:45, 1, 3, 1] = np.nan
    made["activations"][60:, :, :20, 0] = 0.0
    made["updates"][-40:, ..., 0] *= 1e3
    made["checksum"][:, 1] = made["checksum"][:, 0]
    made["inputs"][:, 2] += 3.0


@pytest.mark.fast_cases("7-*", "64-65", "1-30")
@pytest.mark.parametrize("steps", [30, 64, 65, 500])
@pytest.mark.parametrize("size", [1, 7, 64, 100])
def test_blocks_of_any_size_give_the_same_findings(steps, size):
    run = healthy(steps=max(steps, 90), plant=everything)
    run = (run[0], [block[:steps] for block in run[1]])
    assert digest_of(*run, size=size).findings() == digest_of(*run).findings()


def test_order_of_tables_among_blocks_is_of_no_matter():
    info, blocks = healthy(plant=everything)
    halves = [[b[:50], b[50:]] for b in blocks]
    mixed = [half[0] for half in halves] + [half[1] for half in halves]
    assert digest_of(info, mixed).findings() == digest_of(info, blocks).findings()


def nbytes(thing):
    """Bytes of all arrays that hang on an object."""
    if isinstance(thing, np.ndarray):
        return thing.nbytes
    if isinstance(thing, (dict, list, tuple)):
        return sum(map(nbytes, thing.values() if isinstance(thing, dict) else thing))
    return nbytes(vars(thing)) if hasattr(thing, "__dict__") else 0


@pytest.mark.slow
def test_memory_does_not_grow_with_steps():
    info, blocks = healthy(steps=100)
    digest, sizes = Digest(info), []
    for _ in range(300):
        for block in blocks:
            digest.observe(block)
        sizes.append(nbytes(digest.tables))
    assert len(set(sizes)) == 1
    line = digest.tables["table-00"].timeline
    assert STRETCHES // 2 < line.rows / line.width <= STRETCHES
    assert line.sums["changes"].sum(axis=0).tolist() == [line.rows] * 2


def test_numbers_beyond_float64_warn_of_nothing():
    def plant(made):
        made["gradients"][50:] *= 1e200
        made["activations"][50:] *= 1e150
        made["updates"][50:] *= 1e200

    with np.errstate(over="ignore", invalid="ignore"):
        info, blocks = healthy(plant=plant)
    found = kinds(digest_of(info, blocks))
    assert "spike" in found
    assert "sound" in found
