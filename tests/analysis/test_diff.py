"""What of two runs is compared, and what is said of it; the rule is in test_partings.py."""

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from chosen_runs import HOSTILE, made_run
from compared_runs import STEPS, of_format, rounded_otherwise, values
from long_runs import LongTable, chunk_files, long_run

import distwatch as dw
from distwatch.analysis.diffs.precision import precision_of
from distwatch.errors import ConfigError, DamagedRowsWarning, NotARunError
from distwatch.records import Amplification, Card, Layer, RunInfo, Table, TensorLayout, Tensors
from distwatch.signals import Signal
from distwatch.store import StoredRun
from distwatch.testing.fake import fake_block, fake_run, write_fake


def test_runs_of_one_seed_are_identical(tmp_path):
    a, b = (fake_run(tmp_path / name, seed=3).path for name in ("a.zarr", "b.zarr"))
    found = dw.diff(a, b)
    assert (found.verdict, found.first, found.first_unequal) == ("identical", None, None)
    assert found.sentences() == [
        "The runs are identical, bit for bit, in all that both recorded: 2 signals over "
        "20 steps."
    ]
    other = dw.diff(a, fake_run(tmp_path / "c.zarr", seed=4).path)
    assert (other.verdict, other.first.step) == ("parted", 0)


def test_nan_is_equal_to_nan_and_to_nothing_else(made, tmp_path):
    deltas = values()
    deltas[30:, 1, 0, 2] = np.nan
    changed = deltas.copy()
    assert made(deltas, changed).verdict == "identical"
    changed[70, 0, 1, 3] = np.inf
    made_run(tmp_path / "c.zarr", changed)
    found = dw.diff(tmp_path / "a.zarr", tmp_path / "c.zarr")
    first = found.first
    assert (first.step, first.signal, first.replica) == (70, "activation/layer_1", 0)
    assert first.difference == np.inf
    assert "only one of them has NaN or Inf there" in str(found)
    assert found.to_dict()["first"]["difference"] is None


def test_batches_of_another_size_part(tmp_path):
    info = RunInfo(
        (Table("table-00", (Signal("input", "none"),), "every(1)", 8),), (0,), "", {}
    )

    def write(name, size):
        block = fake_block(info, info.tables[0], range(8), lambda *_: np.ones(size))
        write_fake(tmp_path / name, (info, [block]))
        return tmp_path / name

    found = dw.diff(write("a.zarr", 16), write("b.zarr", 32))
    assert (found.first.step, found.first.difference) == (0, np.inf)
    assert found.differences == ("Data: input differs from step 0 on.",)


def over(deltas, replicas):
    """The elements of two replicas, over others."""
    steps, _, signals, _ = deltas.shape
    whole = deltas.transpose(0, 2, 1, 3).reshape(steps, signals, replicas, -1)
    return whole.transpose(0, 2, 1, 3)


@pytest.mark.parametrize("replicas", [1, 3, 4])
def test_other_replicas_are_compared_merged(made, replicas):
    deltas = values()
    found = made(deltas, over(deltas, replicas))
    assert found.verdict in ("identical", "within_tolerance")
    assert max(each.largest for each in found.signals) < 1e-12
    assert "rows are compared merged over replicas" in found.differences[0]
    assert found.replicas == 0


def test_a_change_is_found_over_other_replicas(made):
    deltas = values()
    changed = deltas.copy()
    changed[50, 1, 2] *= 1.5
    found = made(deltas, over(changed, 1))
    assert (found.first.step, found.first.signal) == (50, "activation/layer_2")
    assert (found.first.replicas, found.first.replica) == ((), None)


def test_of_other_replicas_own_gradients_are_not_compared(made):
    deltas = values(signals=2)
    found = made(deltas, over(deltas, 1), names=["activation/a", "gradient_local/a/kernel"])
    assert [each.signal for each in found.signals] == ["activation/a"]
    assert "Not compared: gradient_local/a/kernel, since each replica's own" in str(found)


def test_losses_of_other_replicas_are_compared_by_their_mean(tmp_path):
    """One number on each replica: over one replica it is the mean of both."""
    info = RunInfo(
        (Table("table-00", (Signal("loss", "none"),), "every(1)", 16),), (0, 1), "", {}
    )
    losses = np.random.default_rng(0).uniform(1, 2, (STEPS, 2))

    def write(name, info, of):
        block = fake_block(info, info.tables[0], range(STEPS), of)
        write_fake(tmp_path / name, (info, [block]))
        return tmp_path / name

    a = write("a.zarr", info, lambda step, replica, _: losses[step, replica])
    one = replace(info, replicas=(0,))
    assert dw.diff(a, write("b.zarr", one, lambda step, *_: losses[step].mean())).first is None
    other = write("c.zarr", one, lambda step, *_: losses[step].mean() * (1 + (step >= 33)))
    assert dw.diff(a, other).first.step == 33


def test_partial_batches_of_other_replicas_are_passed_over(tmp_path):
    """A change from batch to batch pairs rows within a replica: fewer rows, other pairs."""
    table = Table("table-00", (Signal("activation/a"),), "every(1)", 16)
    info = RunInfo((table,), (0, 1), "", {})
    deltas = values(signals=1)

    def write(name, info, deltas, scale):
        def of(step, replica, _):
            whole = deltas[step, replica, 0]
            return whole if step % 10 else scale * whole[: len(whole) // 2]

        block = fake_block(info, table, range(1, STEPS), of)
        write_fake(tmp_path / name, (info, [block]))
        return tmp_path / name

    a = write("a.zarr", info, deltas, 1.0)
    found = dw.diff(a, write("b.zarr", replace(info, replicas=(0,)), over(deltas, 1), 3.0))
    assert found.first is None
    assert "Steps of 1 signal not compared: 8 of partial batches." in found.notes
    assert dw.diff(a, write("c.zarr", info, deltas, 3.0)).first.step == 10


def test_steps_are_joined_by_their_number(made):
    deltas = values()
    rare = np.arange(0, STEPS, 3)
    changed = deltas.copy()
    changed[51:, 1, 0] *= 1.5
    found = made(deltas, changed[rare], more={"step": rare})
    assert (found.first.step, found.first.replica, found.steps) == (51, 1, 30)
    assert found.notes == ("Steps of 3 signals not compared: 60 only in A.",)


def test_what_differs_in_the_descriptions_is_said_first(tmp_path):
    def write(name, names, schedule, info):
        signals = (Signal(names[0]), Signal(names[1], names[2]), Signal(names[3]))
        info = replace(info, tables=(Table("table-00", signals, schedule, 8),))
        block = fake_block(info, info.tables[0], range(8), lambda *_: np.ones(4))
        write_fake(tmp_path / name, (info, [block]))
        return tmp_path / name

    a, b = ("activation/a", "activation/b")
    one = RunInfo((), (0,), "one device", {"keras": "3.1"})
    other = RunInfo((), (0,), "mirrored", {"keras": "3.2"})
    found = dw.diff(
        write("a.zarr", (a, b, "previous", "loss"), "every(1)", one),
        write("b.zarr", (a, b, "first", "activation/c"), "every(2)", other),
    )
    assert found.differences == (
        "Strategy: one device in A, mirrored in B.",
        "Version of keras: 3.1 in A, 3.2 in B.",
        "1 signal only in A: loss.",
        "1 signal only in B: activation/c.",
        "Measured against another reference, or at another place in the step, and so not "
        "compared: activation/b.",
        "Schedule: every(1) in A, every(2) in B (activation/a and activation/b).",
    )
    assert found.sentences()[: len(found.differences)] == list(found.differences)
    assert [each.signal for each in found.signals] == ["activation/a"]


def test_a_statistic_that_only_one_has_is_said_and_the_rest_compared(made):
    deltas = values()
    found = made(deltas, deltas, more={"histogram": True})
    assert found.verdict == "identical"
    assert "Statistics only in B: histogram (" in found.differences[0]


#: Both have equal counts, means, extremes, sums and sums of squares, exactly.
TWINS = np.array([[1, 5, 6, 10], [2, 3, 7, 10]], np.float64)


def test_histograms_are_compared_bit_by_bit(made):
    a, b = (np.concatenate([twin, -twin]) for twin in TWINS)
    deltas = np.broadcast_to(a, (20, 2, 1, 8)).copy()
    changed = deltas.copy()
    changed[13, 1] = b
    assert made(deltas, changed).verdict == "identical"


def test_histograms_tell_what_sums_do_not(made):
    a, b = (np.concatenate([twin, -twin]) for twin in TWINS)
    deltas = np.broadcast_to(a, (20, 2, 1, 8)).copy()
    changed = deltas.copy()
    changed[13, 1] = b
    found = made(deltas, changed, histogram=True)
    assert (found.verdict, found.first_unequal.first_unequal) == ("within_tolerance", 13)


@pytest.mark.parametrize("length", [4, 6])
def test_raw_deltas_tell_what_sums_do_not(tmp_path, length):
    """The same elements in another order; and the same batches beside a longer one."""
    layout = TensorLayout((), None, "float32")
    table = Table("table-00", (Signal("tensor/a"),), "every(1)", 8, tensor=layout)
    info = RunInfo((table,), (0, 1), "", {})
    plain = np.random.default_rng(0).integers(1, 9, (16, 2, 4)).astype(np.float64)
    plain[..., 0] = 20.0

    def write(name, deltas, length):
        block = fake_block(info, table, range(16), lambda s, r, _: deltas[s, r])
        raw = np.full((16, 2, length), np.nan)
        raw[..., :4] = deltas
        block = replace(block, tensors=Tensors(raw, np.full((16, 2), 4)))
        write_fake(tmp_path / name, (info, [block[:8], block[8:]]))
        return tmp_path / name

    other = plain.copy()
    other[9, 1] = other[9, 1, ::-1]
    a = write("a.zarr", plain, 4)
    assert dw.diff(a, write("b.zarr", plain, length)).verdict == "identical"
    found = dw.diff(a, write("c.zarr", other, length))
    assert (found.verdict, found.first_unequal.first_unequal) == ("within_tolerance", 9)


def test_a_tolerance_holds_at_every_step(tmp_path):
    deltas = values()
    a = made_run(tmp_path / "a.zarr", deltas)
    b = made_run(
        tmp_path / "b.zarr", rounded_otherwise(deltas, 1e-7 * 1.15 ** np.arange(STEPS))
    )
    loose, tight, none = (dw.diff(a, b, tolerance=each) for each in (0.5, 1e-6, 0))
    assert (loose.verdict, "less than the tolerance of 0.5" in str(loose)) == (
        "within_tolerance",
        True,
    )
    assert 0 < tight.first.step < 40
    assert tight.first.difference > 1e-6 == tight.first.explained
    assert none.first.step == 0
    for wrong in (-1e-3, np.nan, np.inf):
        with pytest.raises(ConfigError, match="give a number from 0 on"):
            dw.diff(a, b, tolerance=wrong)


def test_runs_with_nothing_in_common_are_refused(tmp_path):
    a = made_run(tmp_path / "a.zarr", values(), names=["a", "b", "c"])
    b = made_run(tmp_path / "b.zarr", values(), names=["d", "e", "f"])
    with pytest.raises(ConfigError, match="no signal in common"):
        dw.diff(a, b)
    later = made_run(
        tmp_path / "c.zarr", values(), names=["a", "b", "c"], step=range(100, 100 + STEPS)
    )
    with pytest.raises(ConfigError, match="no step in common"):
        dw.diff(a, later)
    with pytest.raises(NotARunError):
        dw.diff(a, tmp_path / "nothing.zarr")


@pytest.mark.parametrize(
    "name, digits", [("bfloat16", 8), ("float16", 11), ("float32", 24), ("float64", 53)]
)
@pytest.mark.parametrize("changes", [False, True])
def test_values_show_in_which_format_they_were_computed(tmp_path, name, digits, changes):
    deltas = np.random.default_rng(0).normal(0.3, 1.0, (20, 2, 2, 6))
    deltas[:, :, 1] = of_format(deltas[:, :, 1], digits)
    deltas = np.diff(deltas, axis=0) if changes else deltas
    path = made_run(tmp_path / "run.zarr", deltas, names=["input", "activation/a"])
    found = precision_of(StoredRun(path))
    assert found.name == name
    assert found.tolerance == pytest.approx(2.0 ** ((1 - digits) / 2))


def test_another_format_is_said_and_allowed_for(made):
    deltas = of_format(values(), 24)
    found = made(deltas, of_format(deltas, 8))
    assert found.verdict == "within_tolerance"
    assert found.formats == ("float32", "bfloat16")
    assert found.differences == (
        "Precision: A computes in float32, B in bfloat16, as their values show.",
    )


def test_what_is_left_of_a_gradient_that_cancels_out_is_no_format(tmp_path):
    deltas = of_format(values(), 24)
    deltas[:, :, 2] = (
        np.random.default_rng(0).integers(-9, 10, deltas[:, :, 2].shape) * 2.0**-26
    )
    names = ["gradient/a/kernel", "gradient/b/kernel", "gradient/a/bias"]
    run = StoredRun(made_run(tmp_path / "run.zarr", deltas, names=names))
    assert precision_of(run).name == "float32"


def test_what_hardly_changes_is_no_coarse_format(tmp_path):
    """As outputs that saturate, or that are constant but for their last digits."""
    deltas = np.random.default_rng(1).normal(0.3, 1.0, (40, 2, 2, 6))
    deltas[5:, :, 0] = np.sign(deltas[5:, :, 0])
    deltas[5:, :, 1] = np.round(deltas[5:, :, 1] * 500) * 2.0**-27
    names = ["activation/saturated", "activation/constant"]
    run = StoredRun(made_run(tmp_path / "run.zarr", of_format(deltas, 24), names=names))
    assert precision_of(run).name == "float32"


def test_damaged_steps_are_left_out_and_said(tmp_path):
    a, b = (fake_run(tmp_path / name, steps=24).path for name in ("a.zarr", "b.zarr"))
    chunk = a / "worker-0000-start-0000" / "table-00" / "rows" / "c.1.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:-9] + b"nonsense!")
    with pytest.warns(DamagedRowsWarning, match="8 steps"):
        found = dw.diff(a, b)
    assert found.verdict == "identical"
    assert "Of A: 8 steps cannot be read" in str(found)
    assert "8 only in B" in str(found)


def test_a_worker_that_stopped_is_said(tmp_path):
    table = Table("table-00", (Signal("activation/a"),), "every(1)", 8)
    info = RunInfo((table,), (0, 1), "two workers", {}, workers=2)
    deltas = values(signals=1)

    def write(name, stop):
        parts = []
        for worker, steps in ((0, STEPS), (1, stop)):
            own = replace(info, worker=worker, replicas=(worker,))
            made = fake_block(own, table, range(steps), lambda *place: deltas[place])
            parts.append((own, [made[i : i + 8] for i in range(0, steps, 8)]))
        write_fake(tmp_path / name, *parts)
        return tmp_path / name

    found = dw.diff(write("a.zarr", STEPS), write("b.zarr", 40))
    assert found.verdict == "identical"
    assert "Of B: Worker 1 (replica 1) wrote only 40 of 90 steps" in str(found)


def test_an_opened_run_is_compared_in_its_phase(tmp_path):
    paths = [tmp_path / "a.zarr", tmp_path / "b.zarr"]
    table = Table("table-00", (Signal("activation/a"),), "every(1)", 8)
    for number, path in enumerate(paths):
        train = RunInfo((table,), (0,), "", {})
        test = replace(train, phase="test")
        blocks = [
            fake_block(train, table, range(8), lambda *_, by=by: np.ones(4) * by)
            for by in (1.0, 1.0 + number)
        ]
        write_fake(path, (train, blocks[:1]), (test, blocks[1:]))
    assert dw.diff(*paths).verdict == "identical"
    assert dw.diff(*paths, phase="test").verdict == "parted"
    runs = [dw.open_run(path, phase="test") for path in paths]
    assert dw.diff(*runs).verdict == "parted"
    with pytest.raises(ConfigError, match="no phase"):
        dw.diff(*paths, phase="predict")


def test_it_is_plain_data_for_programs_and_text_for_people(made):
    deltas = values(signals=len(HOSTILE))
    changed = deltas.copy()
    changed[50:] *= 2.0
    found = made(deltas, changed, names=list(HOSTILE))
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["verdict"] == "parted"
    assert plain["first"] == plain["signals"][0]
    assert repr(found).startswith("<distwatch.RunDifference: The runs part at step 50")
    shown = found._repr_html_()
    assert "<script" not in shown and "<img" not in shown
    assert "\n\n" in str(found) and "\x1b" not in str(found)


def test_memory_does_not_grow_with_the_number_of_steps(tmp_path):
    def peak(steps):
        tables = (LongTable(20),)
        runs = [
            long_run(tmp_path / f"{steps}-{name}.zarr", steps=steps, tables=tables, window=32)
            for name in "ab"
        ]
        tracemalloc.start()
        found = dw.diff(*(run.path for run in runs))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert (found.verdict, found.steps) == ("identical", steps)
        return most

    # What is loaded once is loaded by the first.
    _, few, many = peak(32), peak(64), peak(1280)
    # Numbers of steps alone are held, which are 8 bytes each.
    assert many < few + 1280 * 8 * 20


def test_each_chunk_is_read_once(tmp_path):
    tables = (LongTable(5), LongTable(3, every=10))
    a, b = (
        long_run(tmp_path / name, steps=2000, tables=tables, replicas=2, window=window)
        for name, window in (("a.zarr", 64), ("b.zarr", 128))
    )
    with chunk_files() as opened:
        found = dw.diff(a.path, b.path)
    assert found.steps == 2000
    rows = {key: times for key, times in opened.items() if key.startswith("rows/")}
    # Each table of both runs: a chunk of the longer window is read in two parts.
    assert max(rows.values()) <= 2 * (2 + 2)
    assert not [key for key in opened if key.startswith("merged/") and int(key.split(".")[1])]


def test_what_was_trained_is_compared(tmp_path):
    def write(name, card):
        table = Table("table-00", (Signal("activation/a"),), "every(1)", 8)
        info = RunInfo((table,), (0,), "", {}, card=card)
        write_fake(tmp_path / name, (info, [fake_block(info, table, [0], lambda *_: [1.0])]))
        return tmp_path / name

    layers = (Layer("a", "Dense", "relu"), Layer("b", "Dense"))
    card = Card(layers, "b", "mse", optimizer="Adam", learning_rate=1e-3)
    other = replace(
        card,
        layers=(Layer("a", "Dense", "tanh"), Layer("c", "Dense")),
        optimizer="SGD",
        learning_rate=0.1,
    )
    a = write("a.zarr", card)
    assert dw.diff(a, write("b.zarr", other)).differences == (
        "Optimizer: Adam in A, SGD in B.",
        "Learning rate: 0.001 in A, 0.1 in B.",
        "Layers of the same name that are other ones: a.",
        "Layers only in A: b.",
        "Layers only in B: c.",
    )
    assert dw.diff(a, write("c.zarr", card)).differences == ()
    assert dw.diff(a, write("d.zarr", None)).differences == ()
    pairs = [write(f"{said}.zarr", replace(card, of_pairs=said)) for said in (True, False)]
    assert dw.diff(*pairs).differences == (
        "A loss that compares each output with all targets: True in A, False in B.",
    )
    # Of most losses it is not known.
    assert dw.diff(a, pairs[1]).differences == ()


def test_an_amplification_is_kept_as_a_file(tmp_path):
    given = Amplification({"loss": 2.5, "activation/dense": 0.0}, 2.0**-23, 8)
    given.save(tmp_path / "grows.json")
    assert Amplification.load(tmp_path / "grows.json") == given
    for wrong in ("", "[]", '{"factors": {"a": -1}, "rounding": 1, "steps": 1}'):
        (tmp_path / "wrong.json").write_text(wrong)
        with pytest.raises(ConfigError, match=r"wrong\.json"):
            Amplification.load(tmp_path / "wrong.json")
    with pytest.raises(ConfigError, match=r"missing\.json is no amplification"):
        Amplification.load(tmp_path / "missing.json")


def test_a_measured_tolerance_is_the_signals_own(made, tmp_path):
    deltas = values(signals=2)
    made(deltas, rounded_otherwise(deltas, np.full(STEPS, 1e-5)))
    a, b = tmp_path / "a.zarr", tmp_path / "b.zarr"
    names = dw.open_run(a).signals
    assert dw.diff(a, b).verdict == "within_tolerance"
    tight = Amplification({names[1]: 1.0}, 2.0**-23, 8)
    found = dw.diff(a, b, tolerance=tight)
    assert (found.verdict, found.first.signal, found.first.step) == ("parted", names[1], 0)
    assert [each.step for each in found.signals] == [0, None]
    loose = Amplification({names[1]: 1e3}, 2.0**-23, 8)
    assert dw.diff(a, b, tolerance=loose).verdict == "within_tolerance"
