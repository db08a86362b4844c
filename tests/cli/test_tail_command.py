"""`distwatch tail` as people and programs call it: in pipes and on terminals, to its end."""

import fcntl
import functools
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
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len

import distwatch as dw
from distwatch.cli.conventions import INTERRUPTED
from distwatch.cli.following.picture import Picture, conclusion
from distwatch.errors import DamagedRowsWarning
from distwatch.store import StoreWriter, claim
from distwatch.store.schema import root_attributes
from distwatch.testing.fake import fake_run

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))

import live
from tailed import (
    CONTROLS,
    HOSTILE,
    MAIN,
    begin,
    drawn,
    info_of,
    look,
    write,
)


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


def test_of_a_damaged_run_the_rest_is_shown_and_the_file_named(call, tmp_path):
    path = fake_run(tmp_path / "run.zarr").path
    (chunk,) = path.glob("*/*/merged/c.2.*")
    chunk.write_bytes(chunk.read_bytes()[:-3])
    with pytest.warns(DamagedRowsWarning, match=f"4 steps of .*{chunk} is damaged"):
        code, out, _ = call(path, "--json", "--once")
    assert code == 0
    assert json.loads(out)["last_step"] == 15


def test_help_has_examples(call):
    code, out, _ = call("--help")
    assert code == 0
    assert "distwatch tail run.zarr --wait" in " ".join(out.split())


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.usefixtures("interruptible")
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
