"""`distwatch tail` follows a run that is being written, whatever happens to it."""

import fcntl
import functools
import io
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

import distwatch as dw
from distwatch.cli.conventions import INTERRUPTED
from distwatch.cli.following import Follower, Wanted, following
from distwatch.cli.following.pace import Pace, SizeGauge
from distwatch.cli.following.picture import Picture, conclusion
from distwatch.cli.following.sparkline import ASCII, UNICODE, sparkline
from distwatch.errors import NotARunError
from distwatch.records import Block, Origin, RunInfo, Table
from distwatch.signals import Signal
from distwatch.statistics import ROW, merge_axis, observe
from distwatch.store import StoreWriter, claim
from distwatch.store.schema import root_attributes
from distwatch.testing.fake import fake_run

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))

import live

MAIN = "from distwatch.cli import main; main()"
NAMES = ("activation/a", "activation/deep/b", "gradient/a")
HOSTILE = ("activation/[red]x[/red]", "[/nonsense]", "two\nlines\x1b[31m", "\u6df1\u5c64/" * 9)
CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f]")
WINDOW = 8


def info_of(names=NAMES, replicas=2, workers=1, worker=0, **others):
    table = Table("table-00", tuple(Signal(name) for name in names), "every(1)", WINDOW)
    mine = tuple(range(worker * replicas, (worker + 1) * replicas))
    return RunInfo((table,), mine, "made up", {}, worker=worker, workers=workers, **others)


def delta(step, replica, place):
    """Replica 1 lies far out, and its values are spread more widely than those of 0."""
    rng = np.random.default_rng([step, replica, place])
    return rng.normal(5.0 * (replica == 1), 1.0 + replica, 6) / (1 + place)


def block(info, steps, values=delta):
    shape = (len(steps), len(info.replicas), len(info.names))
    rows = np.empty((*shape, len(ROW.fields)))
    for i, r, s in np.ndindex(*shape):
        rows[i, r, s] = ROW.pack(observe(ROW, values(steps[i], info.replicas[r], s)))
    step = np.asarray(steps, np.int64)
    return Block("table-00", step, step // 10, step + 1, rows, merge_axis(ROW, rows, axis=1))


def begin(path, *infos, run="a run"):
    claim(path, root_attributes(infos[0], "2026-01-01T00:00:00+00:00", run))
    writers = [StoreWriter(path, info) for info in infos]
    return writers[0] if len(writers) == 1 else writers


def write(writer, info, steps, values=delta):
    writer.append(block(info, list(steps), values))
    writer.commit_tail()


def look(path, **wanted):
    return Follower(str(path), Wanted(**wanted)).look()


def drawn(picture, width=100):
    console = Console(width=width, file=io.StringIO())
    console.print(picture)
    return console.file.getvalue()


@pytest.fixture
def call(call):
    """`distwatch tail` in this process."""
    return functools.partial(call, "tail", width=100)


def tailing(*arguments):
    """`distwatch tail` in a process of its own, with its output in pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, "tail", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Terminal:
    """`distwatch tail` in a pseudo-terminal."""

    def __init__(self, *arguments, columns=90, lines=20):
        # Not that of this process itself: readline may have put a size into it.
        about_screens = ("NO_COLOR", "LINES", "COLUMNS")
        own = {name: is_ for name, is_ in os.environ.items() if name not in about_screens}
        environment = {**own, "TERM": "xterm-256color", "PYTHONWARNINGS": "error"}
        self.pid, self._screen = pty.fork()
        if not self.pid:
            # The size is there before anybody asks for it.
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            command = [sys.executable, "-c", MAIN, "tail", *arguments]
            os.execve(sys.executable, command, environment)
        self.output = ""

    def read_until(self, text=None, times=1, seconds=60):
        """Read until some pattern was printed in some ways, or the program has ended."""
        until = time.monotonic() + seconds
        while text is None or len(set(re.findall(text, self.output))) < times:
            assert time.monotonic() < until, self.output[-2000:]
            try:
                read = os.read(self._screen, 2**16).decode(errors="replace")
            except OSError:  # The other end is closed.
                break
            self.output += read
        return self.output

    def end(self):
        """What is printed until the program ends by itself, and its exit code."""
        self.read_until()
        os.close(self._screen)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), self.output

    @staticmethod
    def screens(output):
        """Each picture that was drawn on the other screen, as lines of text."""
        other = output.partition("\x1b[?1049h")[2].partition("\x1b[?1049l")[0]
        frames = re.sub(r"\x1b\[(?!H)[0-9;?]*[a-zA-Z]", "", other).split("\x1b[H")
        return [frame.replace("\r", "").split("\n") for frame in frames if frame.strip()]


def assert_left_in_order(output):
    """The usual screen and the cursor are back, and no error was printed."""
    assert output.count("\x1b[?1049h") == output.count("\x1b[?1049l") == 1
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")
    assert "Traceback" not in output


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
    with pytest.raises(dw.errors.DamagedStoreError, match="a chunk is missing"):
        look(path, last=25)


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


# The command.


def test_once_shows_all_signals_and_exits(call, tmp_path):
    info = info_of(tuple(f"activation/layer_{i}" for i in range(60)))
    write(begin(tmp_path / "run.zarr", info), info, range(9))
    code, out, err = call(tmp_path / "run.zarr", "--once")
    assert (code, err) == (0, "")
    assert not CONTROLS.search(out)
    for part in ("train", "made up", "step 8", "9 committed", "none lost", "l2, last 9 steps"):
        assert part in out
    for name in info.names:
        assert name in out


def test_a_closed_run_ends_by_itself_and_says_so(call, tmp_path):
    path = fake_run(tmp_path / "run.zarr", lost=1).path
    code, out, err = call(path)
    assert (code, err, len(out.splitlines())) == (0, "", 2)
    assert out.splitlines()[1] == "The run is closed: 20 steps, 1 step lost."
    assert "The run is closed" in call(path, "--once")[1]


def test_a_run_that_an_error_ended_says_why(call, tmp_path):
    info = info_of()
    writer = begin(tmp_path / "run.zarr", info)
    write(writer, info, range(3))
    writer.give_up("OSError: no\x1b[31m space", {"table-00": 7})
    code, out, _ = call(tmp_path / "run.zarr")
    assert code == 0
    assert r"an error (3 steps, 7 steps lost): OSError: no\x1b[31m space" in out
    said = json.loads(call(tmp_path / "run.zarr", "--json")[1])
    assert said["ended"] == "OSError: no\x1b[31m space"


def test_a_run_without_rows_is_followed(call, tmp_path):
    info = info_of()
    claim(tmp_path / "run.zarr", root_attributes(info, "2026", "a"))
    for arguments in ([], ["--signals", "later"], ["--json"]):
        code, out, _ = call(tmp_path / "run.zarr", "--once", *arguments)
        assert code == 0
        assert "no step is committed yet" in out or json.loads(out)["committed_steps"] == 0
    StoreWriter(tmp_path / "run.zarr", info)
    assert call(tmp_path / "run.zarr", "--once")[0] == 0


def test_refusals(call, tmp_path):
    path = fake_run(tmp_path / "run.zarr").path
    for arguments, parts in (
        ([tmp_path / "nowhere"], ["no such folder"]),
        ([path, "--signals", "dence"], ["'dence' matches no signal", "'activation/dense'"]),
        ([path, "--statistic", "l3"], ["unknown statistic 'l3'", "'l2'"]),
        ([path, "--phase", "test"], ["no phase 'test'"]),
    ):
        code, out, err = call(*arguments)
        assert (code, out, err.count("\n")) == (1, "", 1)
        for part in parts:
            assert part in err
    for arguments in ([], [path, "--interval", "0.01"], [path, "--last", "0"]):
        assert call(*arguments)[0] == 2


def test_a_damaged_run_is_refused_with_the_file(call, tmp_path):
    path = fake_run(tmp_path / "run.zarr").path
    (chunk,) = path.glob("*/*/merged/c.2.*")
    chunk.write_bytes(chunk.read_bytes()[:-3])
    code, out, err = call(path)
    assert (code, out) == (1, "")
    assert f"{chunk} is damaged" in err


def test_help_has_examples(call):
    code, out, _ = call("--help")
    assert code == 0
    assert "distwatch tail run.zarr --wait" in " ".join(out.split())


@pytest.mark.parametrize("width", [40, 60, 100, 200])
def test_every_line_fits_and_hostile_names_do_no_harm(call, tmp_path, width):
    info = replace(info_of(HOSTILE), strategy="a strategy\x1b[2J " * 9)
    write(begin(tmp_path / "[bold]run[/].zarr", info), info, range(700))
    code, out, _ = call(tmp_path / "[bold]run[/].zarr", "--once", width=width)
    assert code == 0
    assert not CONTROLS.search(out)
    assert max(cell_len(line) for line in out.splitlines()) <= width
    assert r"nes\x1b[31m" in out
    assert "[/red]" in out
    # Whatever is too long takes one line, not more.
    seen = look(tmp_path / "[bold]run[/].zarr")
    assert sum("strategy" in line for line in drawn(Picture(seen), width).splitlines()) == 1
    # The sparkline and the value are there however narrow it is.
    assert sum("▁" in line for line in out.splitlines()) == len(HOSTILE)
    assert "now" in out


def test_a_picture_fits_the_height(tmp_path):
    info = info_of(tuple(f"activation/layer_{i}" for i in range(30)))
    write(begin(tmp_path / "run.zarr", info), info, range(9))
    seen = look(tmp_path / "run.zarr")
    for height in (8, 12, 34, 35, 36, 50):
        lines = drawn(Picture(seen, height)).splitlines()
        assert len(lines) <= height
        there = sum("layer_" in line for line in lines)
        left_out = re.search(r"… (\d+) more signal", lines[-1])
        assert there + int(left_out[1] if left_out else 0) == 30
    assert conclusion(seen).startswith("The run was ended by an error") is (not seen.ended)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_pipe_that_is_closed_is_no_error(tmp_path, options):
    info = info_of()
    writer = begin(tmp_path / "run.zarr", info)
    write(writer, info, range(5))
    tail = tailing(tmp_path / "run.zarr", "--interval", "0.1", *options)
    assert tail.stdout.readline()
    tail.stdout.close()
    tail.wait(30)
    assert tail.stderr.read() == ""
    tail.stderr.close()


def test_lines_follow_until_the_run_is_deleted(tmp_path):
    info = info_of()
    path = tmp_path / "run.zarr"
    tail = tailing(path, "--wait", "--interval", "0.1")
    assert tail.stdout.readline() == f"waiting for {path}\n"
    writer = begin(path, info)
    for step in range(3):
        write(writer, info, [step])
        while f"step {step}, " not in tail.stdout.readline():
            assert tail.poll() is None
    shutil.rmtree(path)
    out, err = tail.communicate(timeout=30)
    assert tail.returncode == 1
    assert "was deleted, or moved away, while it was followed" in " ".join(err.split())
    assert not CONTROLS.search(out + err)


def test_tail_loads_no_tensorflow(tmp_path):
    path = fake_run(tmp_path / "run.zarr").path
    program = (
        "import sys, contextlib, distwatch.cli\n"
        f"sys.argv = ['distwatch', 'tail', {str(path)!r}]\n"
        "with contextlib.suppress(SystemExit): distwatch.cli.main()\n"
        "assert not {'tensorflow', 'keras', 'dask'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


# On a terminal.


@pytest.mark.parametrize("columns", [40, 90])
def test_a_run_of_two_workers_is_followed_on_a_terminal_to_its_end(tmp_path, columns):
    import multiprocessing

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["live"])
    path, enough = tmp_path / "run.zarr", context.Event()
    claim(path, root_attributes(live.INFO, "2026-01-01T00:00:00+00:00", "1"))
    writers = [context.Process(target=live.write, args=(path, i, enough)) for i in range(2)]
    for writer in writers:
        writer.start()
    try:
        tail = Terminal(str(path), "--interval", "0.1", columns=columns, lines=14)
        tail.read_until(r"[\d,]+ committed", times=5)
        tail.read_until("rows/s")
    finally:
        enough.set()
        for writer in writers:
            writer.join()
    code, output = tail.end()
    assert (code, "error" in output) == (0, False)
    assert_left_in_order(output)
    screens = tail.screens(output)
    seen = [re.search(r"([\d,]+) committed", " ".join(lines)) for lines in screens]
    steps = [int(found[1].replace(",", "")) for found in seen if found]
    assert len(set(steps)) > 3
    assert steps == sorted(steps)
    assert {len(lines) for lines in screens if len(lines) > 2} == {14}
    assert max(cell_len(line) for lines in screens for line in lines) <= columns
    # The last picture stays, and how it ended.
    usual = " ".join(output.partition("\x1b[?1049l")[2].split())
    assert f"{len(dw.open_run(path)):,} committed" in usual
    assert "The run is closed" in usual


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, 143)]
)
def test_the_terminal_is_left_in_order_when_it_is_ended(tmp_path, sent, code):
    info = info_of()
    write(begin(tmp_path / "run.zarr", info), info, range(5))
    tail = Terminal(str(tmp_path / "run.zarr"))
    tail.read_until("committed")
    os.kill(tail.pid, sent)
    ended, output = tail.end()
    assert ended == code
    assert_left_in_order(output)
    assert "error" not in output
    assert "Abort" not in output


def test_refused_without_touching_the_screen(tmp_path):
    code, output = Terminal(str(tmp_path / "nowhere.zarr")).end()
    assert code == 1
    assert "\x1b[?1049h" not in output
    assert "no such" in output


def test_waiting_on_a_terminal(tmp_path):
    tail = Terminal(str(tmp_path / "run.zarr"), "--wait", "--interval", "0.1")
    tail.read_until("Waiting for")
    path = fake_run(tmp_path / "made.zarr").path
    path.rename(tmp_path / "run.zarr")
    code, output = tail.end()
    assert code == 0
    assert_left_in_order(output)
    assert "The run is closed: 20 steps, none lost." in output
