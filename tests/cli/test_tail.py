"""What `distwatch tail` reads of a run that is being written, whatever happens to it."""

import functools
import io
import json
import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from tailed import NAMES, begin, delta, drawn, info_of, look, write

import distwatch as dw
from distwatch.cli.following import Follower, Wanted, following
from distwatch.cli.following.pace import Pace, SizeGauge
from distwatch.cli.following.picture import Picture
from distwatch.cli.following.sparkline import ASCII, UNICODE, sparkline
from distwatch.errors import DamagedRowsWarning, NotARunError
from distwatch.records import Origin
from distwatch.store import StoreWriter, claim
from distwatch.store.schema import root_attributes
from distwatch.testing.fake import fake_run


@pytest.fixture
def call(call):
    """`distwatch tail` in this process."""
    return functools.partial(call, "tail", width=100)


# Sparklines.


@pytest.mark.parametrize("place", [0, 1, 37, 498, 499])
@pytest.mark.parametrize("width", [1, 7, 40, 499])
def test_a_spike_of_one_step_survives(place, width):
    values = np.linspace(1.0, 2.0, 500)
    values[place] = 50.0
    line = sparkline(values, np.zeros(500), width)
    assert len(line) == width
    if width > 1:
        assert line.count("█") == 1
        assert line.index("█") == pytest.approx(place * width / 500, abs=1)


def test_a_spike_downwards_survives_where_values_can_be_negative():
    values = 50.0 + np.sin(np.arange(500))
    values[123] = -3.0
    line = sparkline(values, np.zeros(500), 20)
    assert [line.count(UNICODE.levels[0]), line.index(UNICODE.levels[0])] == [1, 4]


@pytest.mark.parametrize("width", [5, 40, 500])
def test_nan_and_inf_are_marked_and_survive(width):
    broken = np.zeros(500, bool)
    broken[[3, 250]] = True
    line = sparkline(np.ones(500), broken, width)
    assert line.count(UNICODE.broken) == 2


def test_unknown_values_are_gaps_and_extremes_are_drawn():
    nothing = np.zeros(4)
    assert sparkline([np.nan, 0.0, 1.0, np.inf], nothing, 9) == "·▁█·"
    assert sparkline([np.nan] * 4, nothing, 2) == "··"
    assert sparkline([3.0] * 4, nothing, 9) == "▁▁▁▁"
    assert sparkline([-1.7e308, 1.7e308, 1.7e308, 1.7e308], nothing, 4) == "▁███"
    assert sparkline([], [], 9) == sparkline([1.0], [False], 0) == ""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_terminals_without_blocks_get_other_characters(tmp_path, encoding):
    seen = look(fake_run(tmp_path / "run.zarr").path)
    output = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(width=100, file=output).print(Picture(seen))
    output.seek(0)
    shown = set(output.read())
    assert bool(shown & set(UNICODE.levels)) is (encoding == "utf-8")
    assert bool(shown & set(ASCII.levels) - set("-_.=*")) is (encoding != "utf-8")
    assert "".join(ASCII).isascii()


# What a look says.


def test_a_look_says_what_the_run_says(tmp_path):
    path = fake_run(tmp_path / "run.zarr", steps=43, replicas=3, lost=4).path
    run = dw.open_run(path)
    seen = look(path, last=20)
    assert (seen.stored.steps, seen.last_step, seen.stored.lost, seen.ended) == (
        43,
        42,
        4,
        "closed",
    )
    assert seen.nbytes == sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    assert [each.name for each in seen.signals] == run.signals
    for each in seen.signals:
        wanted = run[each.name].merged("l2").to_numpy()[-20:]
        np.testing.assert_allclose(each.values, wanted)
        assert each.value == pytest.approx(wanted[-1])
        spread = run[each.name].merged("spread").to_numpy()[-1]
        assert each.spread == pytest.approx(spread)


@pytest.mark.parametrize("statistic", ["mean", "std", "max", "zeros", "spread"])
def test_any_statistic_can_be_shown(tmp_path, statistic):
    path = fake_run(tmp_path / "run.zarr").path
    wanted = dw.open_run(path)["activation/dense_1"].merged(statistic)
    seen = look(path, statistic=statistic, signals=("dense_1",))
    np.testing.assert_allclose(seen.signals[0].values, wanted)


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ((), NAMES),
        (("a",), ("activation/a", "gradient/a")),
        (("activation/*",), NAMES[:2]),
        (("deep/b",), NAMES[1:2]),
        (("b", "gradient/*"), NAMES[1:]),
    ],
)
def test_signals_are_chosen_as_elsewhere(tmp_path, patterns, names):
    info = info_of()
    write(begin(tmp_path / "run.zarr", info), info, range(5))
    seen = look(tmp_path / "run.zarr", signals=patterns)
    assert tuple(each.name for each in seen.signals) == names
    for each in seen.signals:
        wanted = dw.open_run(tmp_path / "run.zarr")[each.name].merged("l2")
        np.testing.assert_allclose(each.values, wanted)


def test_the_replica_that_lies_furthest_out_is_named(tmp_path):
    for replicas in (1, 2, 4):
        info = info_of(replicas=replicas)
        path = tmp_path / f"{replicas}.zarr"
        write(begin(path, info), info, range(12))
        seen = [each.replica for each in look(path).signals]
        assert seen == [None if replicas == 1 else 1] * len(NAMES)


def test_only_the_last_steps_are_read(tmp_path):
    path = fake_run(tmp_path / "run.zarr", steps=80, window=8).path
    table = path / "worker-0000-start-0000" / "table-00"
    for array in ("rows", "merged"):
        for chunk in (table / array).glob("c.*"):
            if int(chunk.name.split(".")[1]) < 7:
                chunk.unlink()
    assert len(look(path, last=24).signals[0].values) == 24
    # One step more meets the chunk before, and then all of the run is looked at.
    with pytest.warns(DamagedRowsWarning, match="56 steps of .* are left out"):
        assert len(look(path, last=25).signals[0].values) == 24


def test_what_is_not_new_is_not_read_again(tmp_path):
    info = info_of()
    writer = begin(tmp_path / "run.zarr", info)
    write(writer, info, range(16))
    follower = Follower(str(tmp_path / "run.zarr"), Wanted())
    before = follower.look()
    for chunk in tmp_path.glob("run.zarr/*/*/rows/c.*"):
        chunk.rename(chunk.with_name("hidden." + chunk.name))
    assert follower.look().signals == before.signals
    for chunk in tmp_path.glob("run.zarr/*/*/rows/hidden.*"):
        chunk.rename(chunk.with_name(chunk.name.removeprefix("hidden.")))
    write(writer, info, range(16, 20))
    assert len(follower.look().signals[0].values) == 20


def test_nan_rows_are_counted_marked_and_first(tmp_path):
    def values(step, replica, place):
        found = delta(step, replica, place)
        if step == 3 and place == 1 and replica:
            found[:2] = np.nan, np.inf
        # Another signal changes more.
        return found * 90 if (step, place) == (5, 2) else found

    info = info_of()
    write(begin(tmp_path / "run.zarr", info), info, range(20), values)
    seen = look(tmp_path / "run.zarr")
    assert [each.special for each in seen.signals] == [0, 2, 0]
    assert np.flatnonzero(seen.signals[1].broken).tolist() == [3]
    lines = drawn(Picture(seen)).splitlines()
    assert [line.count(UNICODE.broken) for line in lines if "/" in line][-3:] == [0, 1, 0]
    # Where there is room for one only, it is this one.
    lines = drawn(Picture(seen, height=6)).splitlines()
    assert [line.split()[0] for line in lines[-2:]] == ["activation/deep/b", "…"]
    assert lines[-1] == "… 2 more signals"


def test_steps_of_which_nothing_is_known_are_null_for_programs(call, tmp_path):
    info = info_of()
    write(begin(tmp_path / "run.zarr", info), info, range(3), lambda *_: np.zeros(0))
    code, out, _ = call(tmp_path / "run.zarr", "--once", "--json")
    (line,) = out.splitlines()
    said = json.loads(line, parse_constant=pytest.fail)
    assert (code, said["signals"][0]["value"], said["signals"][0]["steps"]) == (0, None, 3)
    assert "···" in call(tmp_path / "run.zarr", "--once")[1]


def test_huge_values_are_shown_without_a_warning(call, tmp_path):
    info = info_of()
    writer = begin(tmp_path / "run.zarr", info)

    def values(step, replica, _):
        return np.full(3, 2.5e153 * (1 + step % 2) * (-1) ** replica)

    write(writer, info, range(9), values)
    for statistic in ("l1", "mean", "max"):
        code, out, err = call(tmp_path / "run.zarr", "--once", "--statistic", statistic)
        assert (code, err) == (0, "")
        assert "e+15" in out


# Workers.


def test_a_lagging_worker_is_named_and_waited_for(tmp_path):
    path = tmp_path / "run.zarr"
    infos = [info_of(workers=2, worker=i) for i in range(2)]
    first, second = begin(path, *infos)
    write(first, infos[0], range(4))
    seen = look(path)
    assert [(each.steps, seen.behind(each)) for each in seen.stored.workers] == [(4, 0), (0, 4)]
    write(second, infos[1], range(4))
    write(first, infos[0], range(4, 14))
    seen = look(path)
    assert [(each.steps, seen.behind(each)) for each in seen.stored.workers] == [
        (14, 0),
        (4, 10),
    ]
    assert "worker 1 (replicas 2, 3) is 10 steps behind" in drawn(Picture(seen))
    # A step that half of the replicas have looks like a smaller change.
    assert [len(each.values) for each in seen.signals] == [4, 4, 4]
    wanted = dw.open_run(path)[NAMES[0]].merged("l2")
    np.testing.assert_allclose(seen.signals[0].values, wanted[:4])
    # One that is dead must not hold it up.
    write(first, infos[0], range(14, 30))
    assert [len(each.values) for each in look(path).signals] == [30] * 3
    # Nor one that ended earlier, when all is over.
    write(second, infos[1], range(4, 26))
    assert len(look(path).signals[0].values) == 26
    first.close()
    assert look(path).ended is None
    second.close()
    seen = look(path)
    assert (seen.ended, len(seen.signals[0].values)) == ("closed", 30)


def test_a_worker_without_rows_is_waited_for_a_while(tmp_path):
    infos = [info_of(workers=2, worker=i) for i in range(2)]
    claim(tmp_path / "run.zarr", root_attributes(infos[0], "2026", "a"))
    writer = StoreWriter(tmp_path / "run.zarr", infos[0])
    write(writer, infos[0], range(4))
    writer.close()
    now = [100.0]
    follower = Follower(str(tmp_path / "run.zarr"), Wanted(), clock=lambda: now[0])
    seen = follower.look()
    assert (seen.ended, seen.absent) == (None, 1)
    assert "1 worker left no row yet" in drawn(Picture(seen))
    now[0] += 60
    follower.look()
    assert follower.look().ended == "closed"


def test_one_worker_that_fails_does_not_end_the_others(tmp_path):
    infos = [info_of(workers=2, worker=i) for i in range(2)]
    first, second = begin(tmp_path / "run.zarr", *infos)
    for writer, info in zip((first, second), infos, strict=True):
        write(writer, info, range(4))
    second.give_up("OSError: disk\nfull", {})
    seen = look(tmp_path / "run.zarr")
    assert seen.ended is None
    assert "worker 1 (replicas 2, 3), ended by an error: OSError: disk full" in drawn(
        Picture(seen), 120
    )
    first.close()
    assert look(tmp_path / "run.zarr").ended == "OSError: disk\nfull"


# Pace and size.


def test_the_pace_is_counted_from_commit_to_commit():
    pace = Pace()
    pace.observe(0.0, 500, 1000)
    assert pace.per_second(0.0) is None
    for now, steps in [(1.0, 500), (9.0, 600), (10.0, 600), (19.0, 700), (20.0, 700)]:
        pace.observe(now, steps, 2 * steps)
    # 100 steps in the 10 seconds between the two commits.
    assert pace.per_second(20.0) == pytest.approx((10.0, 20.0))
    assert pace.quiet(29.0) == 10.0
    # A pause that is longer than ever counts.
    assert pace.per_second(59.0) == pytest.approx((2.0, 4.0))
    # Another start replaces the last steps.
    pace.observe(60.0, 650, 1300)
    assert pace.per_second(60.0) is None


def test_measuring_the_size_takes_a_small_part_of_the_time():
    now, measured = [0.0], []

    def measure():
        measured.append(now[0])
        now[0] += 0.5
        return len(measured)

    gauge = SizeGauge(lambda: now[0])
    for second in range(100):
        now[0] = max(now[0], float(second))
        assert gauge.measure(measure)
    assert len(measured) == 4
    assert gauge.measure(measure, at_once=True) == 5


# What may happen to a run.


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(following, "_AGAIN", (0.01, 0.01))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("phase", [None, "train"])
def test_a_run_that_is_overwritten_is_told(tmp_path, phase):
    info = info_of()
    path = tmp_path / "run.zarr"
    write(begin(path, info), info, range(5))
    follower = Follower(str(path), Wanted(phase))
    follower.look()
    shutil.rmtree(path)
    claim(path, root_attributes(info, "2026-01-01T00:00:00+00:00", "another"))
    with pytest.raises(NotARunError, match="overwritten by another run"):
        follower.look()


@pytest.mark.usefixtures("impatient")
def test_a_run_that_is_deleted_bit_by_bit_is_told(tmp_path):
    info = info_of()
    path = tmp_path / "run.zarr"
    write(begin(path, info), info, range(5))
    follower = Follower(str(path), Wanted())
    follower.look()
    shutil.rmtree(path / "worker-0000-start-0000")
    with pytest.raises(dw.errors.DamagedStoreError, match="rows that were there are gone"):
        follower.look()
    shutil.rmtree(path)
    with pytest.raises(NotARunError, match="was deleted"):
        follower.look()


def test_what_is_mended_in_a_moment_is_no_error(tmp_path):
    info = info_of()
    path = tmp_path / "run.zarr"
    writer = begin(path, info)
    write(writer, info, range(5))
    follower = Follower(str(path), Wanted())
    follower.look()
    write(writer, info, range(5, 9))
    away = tmp_path / "away"
    path.rename(away)
    threading.Timer(0.3, lambda: away.rename(path)).start()
    assert follower.look().stored.steps == 9


def test_a_training_that_is_taken_up_again_is_followed(tmp_path):
    info = info_of()
    path = tmp_path / "run.zarr"
    write(begin(path, info), info, range(20))
    follower = Follower(str(path), Wanted())
    assert follower.look().last_step == 19
    again = replace(info, origin=Origin(1, 12, 13))
    writer = StoreWriter(path, again)
    write(writer, again, range(12, 15))
    seen = follower.look()
    assert (seen.stored.steps, seen.last_step, len(seen.signals[0].values)) == (15, 14, 15)
    writer.close()
    assert follower.look().ended == "closed"


def test_a_phase_stays_when_another_one_comes(tmp_path):
    test, train = (info_of(phase=phase) for phase in ("test", "train"))
    write(begin(tmp_path / "run.zarr", test), test, range(3))
    follower = Follower(str(tmp_path / "run.zarr"), Wanted())
    assert follower.look().stored.info.phase == "test"
    write(StoreWriter(tmp_path / "run.zarr", train), train, range(9))
    assert (follower.look().stored.info.phase, follower.look().stored.steps) == ("test", 3)


@pytest.mark.usefixtures("impatient")
def test_what_is_there_already_or_never_comes_is_not_waited_for(call, tmp_path):
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "letter").write_text("text")
    ended = fake_run(tmp_path / "run.zarr").path
    for path, *options in (
        [tmp_path / "file"],
        [tmp_path / "folder"],
        [ended, "--phase", "test"],
        [ended, "--phase", "tets"],
    ):
        code, out, err = call(path, "--wait", *options)
        assert (code, out, err[:7]) == (1, "", "error: ")


def test_a_run_and_a_phase_are_waited_for(tmp_path):
    path = tmp_path / "run.zarr"
    info = info_of(phase="test")
    follower = Follower(str(path), Wanted("test"))
    assert not follower.is_there()
    path.mkdir()
    assert not follower.is_there()
    path.rmdir()
    writer = begin(path, info_of())
    assert not follower.is_there()
    write(writer, info_of(), range(3))
    assert not follower.is_there()
    write(StoreWriter(path, info), info, range(3))
    assert follower.is_there()
    assert Follower(str(path), Wanted()).is_there()


# Damage.


@pytest.mark.parametrize("again", [(), (0.0, 0.0)])
def test_a_run_with_damage_is_followed_without_it(tmp_path, monkeypatch, again):
    monkeypatch.setattr(following, "_AGAIN", again)
    path, info = tmp_path / "run.zarr", info_of()
    writer = begin(path, info)
    write(writer, info, range(24))
    table = path / "worker-0000-start-0000" / "table-00"
    (table / "rows" / "c.1.0.0.0").write_bytes(b"x" * 100)
    follower = Follower(str(path), Wanted())
    with pytest.warns(DamagedRowsWarning, match="8 steps of .* are left out"):
        seen = follower.look()
    whole = look(fake_run_of(tmp_path, [*range(8), *range(16, 24)]))
    assert seen.last_step == 23
    assert len(seen.signals) == len(whole.signals) == len(NAMES)
    for one, other in zip(seen.signals, whole.signals, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
    # What comes later is shown, too.
    write(writer, info, range(24, 32))
    with pytest.warns(DamagedRowsWarning, match="8 steps of"):
        assert follower.look().last_step == 31


def fake_run_of(tmp_path, steps):
    """The same rows, of these steps only."""
    info = info_of()
    write(begin(tmp_path / "other.zarr", info), info, steps)
    return tmp_path / "other.zarr"
