"""Runs lie in folders, in memory and in buckets alike; a local server stands in for S3."""

import os
import subprocess
import sys

import boto3
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from obstore.exceptions import PermissionDeniedError
from test_writing import NAME, TABLE, assert_holds, block_of, info_of
from typer.testing import CliRunner
from zarr.core.sync import sync
from zarr.storage import WrapperStore

import distwatch as dw
from distwatch.cli.conventions import app
from distwatch.cli.doctor import targets
from distwatch.errors import (
    ConfigError,
    DamagedRowsWarning,
    NotARunError,
    NotWritableError,
    RunExistsError,
    UnreachableError,
)
from distwatch.store import (
    StoreWriter,
    claim,
    claim_new,
    claim_with,
    is_run,
    locations,
    next_start,
)
from distwatch.store.locations import Bucket, location_of
from distwatch.store.schema import root_attributes
from distwatch.testing.fake import fake_run

BUCKET = "runs"


@pytest.fixture(scope="module")
def s3():
    """A server of our own that speaks S3, with one bucket."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ALLOW_HTTP": "true",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=BUCKET)
    yield
    server.stop()
    for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value


@pytest.fixture(params=["folder", "memory", "bucket"])
def address(request, tmp_path):
    if request.param == "folder":
        return tmp_path / "run.zarr"
    name = f"{tmp_path.name}/run.zarr"
    if request.param == "memory":
        return f"memory://{name}"
    request.getfixturevalue("s3")
    return f"s3://{BUCKET}/{name}"


def remove(address, key):
    """Remove one file."""
    if isinstance(address, str):
        sync(location_of(address).store.delete(key))
    else:
        (address / key).unlink()


def claimed(address, run="1f"):
    claim(address, root_attributes(info_of(), "2026-01-01T00:00:00+00:00", run))


def test_what_is_written_is_read(address):
    info = info_of(signals=13)
    claimed(address)
    writer = StoreWriter(address, info, synced=True)
    for start in range(0, 21, 3):
        writer.append(block_of(info, start, 3))
        writer.commit_tail()
        assert_holds(address, info, start + 3)
    writer.close()
    run = dw.open_run(address)
    assert run.ended == "closed"
    assert run.path == address
    assert run.verify() == []
    lazily = run.to_xarray(chunks="auto")["mean"].compute()
    np.testing.assert_array_equal(lazily, run.to_xarray()["mean"])


def test_a_run_is_followed_while_it_is_written(address):
    info = info_of()
    claimed(address)
    run = dw.open_run(address)
    assert len(run) == 0
    writer = StoreWriter(address, info)
    writer.append(block_of(info, 0, 16))
    assert len(run.refresh()) == 16


def test_a_place_is_claimed_once(address):
    assert not is_run(address)
    claimed(address)
    assert is_run(address)
    assert claim_with(address, "2f", 1, wait=0) is None
    claim_with(address, "1f", 1, wait=0).release()
    with pytest.raises(RunExistsError, match="overwrite=True"):
        claimed(address)


def test_a_claim_is_undone_if_nothing_was_written(address):
    attributes = root_attributes(info_of(), "2026-01-01T00:00:00+00:00", "1f")
    held = claim_new(address, attributes)
    assert is_run(address)
    held.release(undo=True)
    assert not location_of(address).children()
    assert not location_of(address).exists() or isinstance(address, str)
    held = claim_new(address, attributes)
    StoreWriter(address, info_of(), claim=held)
    held.release(undo=True)
    assert is_run(address)


def test_overwriting_removes_the_old_run_whole(address):
    fake_run(address, steps=40)
    attributes = root_attributes(info_of(), "2026-01-01T00:00:00+00:00")
    claim(address, attributes, overwrite=True)
    assert location_of(address).children() == ["zarr.json"]
    assert dw.open_run(address).signals == []


def test_what_is_no_run_is_left_alone(address):
    location = location_of(address)
    location.make()
    location.write([("notes.txt", b"mine")])
    with pytest.raises(RunExistsError, match="left alone"):
        claim(address, {}, overwrite=True)
    assert location.read("notes.txt") == b"mine"


def test_the_next_start_is_counted(address):
    fake_run(address)
    assert next_start(address) == 1


def test_a_chunk_that_is_gone_is_named(address):
    fake_run(address, steps=20)
    key = f"{NAME}/{TABLE}/rows/c.1.0.0.0"
    remove(address, key)
    run = dw.open_run(address)
    (damage,) = run.verify()
    assert (damage.array, damage.first, damage.stop) == ("rows", 8, 16)
    assert str(damage.file) == f"{address}/{key}"
    with pytest.warns(DamagedRowsWarning, match=r"c\.1\.0\.0\.0"):
        assert run.to_xarray().step.values.tolist() == [*range(8), *range(16, 20)]


def test_sizes_add_up(address):
    fake_run(address, steps=20)
    location = location_of(address)
    assert location.size("zarr.json") == len(location.read("zarr.json"))
    assert location.size("nothing") is None
    assert location.size_below() > location.size("zarr.json") > 100


def test_the_command_line_takes_addresses(address):
    fake_run(address, steps=20)
    for command in ("info", "verify"):
        ended = CliRunner().invoke(app, [command, str(address)])
        assert ended.exit_code == 0, ended.output
    assert "none damaged" in ended.output


def test_where_nothing_is(address):
    with pytest.raises(NotARunError):
        dw.open_run(address)


def test_memory_is_shared_in_the_process_only():
    fake_run("memory://shared/run.zarr")
    assert len(dw.open_run("memory://shared/run.zarr")) == 20
    assert location_of("memory://other/run.zarr").children() == []


@pytest.mark.usefixtures("s3")
def test_a_bucket_that_is_not_there():
    with pytest.raises(NotARunError):
        dw.open_run("s3://no-such-bucket/run.zarr")
    with pytest.raises(NotWritableError, match="cannot be reached"):
        claimed("s3://no-such-bucket/run.zarr")
    assert not location_of("s3://no-such-bucket/run.zarr").is_writable()


@pytest.mark.usefixtures("s3")
def test_the_doctor_tries_a_bucket_and_leaves_nothing(monkeypatch):
    monkeypatch.setattr(targets, "SECONDS", 0.0)
    run = fake_run(f"s3://{BUCKET}/doctor/run.zarr")
    place, writing = targets.look_at_target(str(run.path))
    assert (place.verdict, writing.name) == ("ok", "writing")
    assert writing.figures["stored_megabytes_per_second"] > 0
    assert location_of(f"s3://{BUCKET}/doctor").children() == ["run.zarr"]
    (place,) = targets.look_at_target("s3://no-such-bucket/run.zarr")
    assert place.verdict == "problem"
    assert "cannot be reached" in place.text


def test_without_the_library_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ConfigError, match=r"pip install 'distwatch\[cloud\]'"):
        location_of("s3://runs/run.zarr")


def test_memory_needs_no_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setitem(sys.modules, "obstore.exceptions", None)
    fake_run("memory://alone/run.zarr")
    assert len(dw.open_run("memory://alone/run.zarr")) == 20


def test_a_scheme_that_nobody_knows():
    with pytest.raises(ConfigError, match="known are paths, memory://, s3://"):
        location_of("gopher://runs/run.zarr")


def test_a_server_that_does_not_answer_rightly(s3, monkeypatch):
    url = f"s3://{BUCKET}/refused/run.zarr"
    fake_run(url)
    reach = locations._object_store
    monkeypatch.setattr(locations, "_object_store", lambda url: RefusingStore(reach(url)))
    run = dw.open_run(url)
    with pytest.raises(UnreachableError, match=r"cannot be reached.*no entry"):
        run.to_xarray()


class RefusingStore(WrapperStore):
    """A bucket whose chunks may not be read."""

    async def get(self, key, *args, **kwargs):
        if not key.endswith("zarr.json"):
            raise PermissionDeniedError("no entry")
        return await super().get(key, *args, **kwargs)


@pytest.mark.usefixtures("s3")
@pytest.mark.slow
def test_a_training_is_recorded_in_a_bucket():
    url = f"s3://{BUCKET}/training/run.zarr"
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", TRAINING, url],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert ended.returncode == 0, ended.stderr
    run = dw.open_run(url)
    assert run.to_xarray().step.values.tolist() == list(range(12))
    assert [segment.first_step for segment in run.segments] == [0, 6]
    assert run.ended == "closed"


TRAINING = """
import sys, keras, numpy as np
import distwatch as dw
x, y = np.random.default_rng(0).normal(size=(24, 4)), np.ones((24, 1))
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
for epochs in (1, 2):
    watch = dw.Watch(sys.argv[1], resume=True)
    model.fit(x, y, batch_size=4, epochs=epochs, initial_epoch=epochs - 1, verbose=0,
              callbacks=[watch])
"""


def test_a_bucket_is_told_from_a_folder(tmp_path):
    assert isinstance(location_of("memory://x/y"), Bucket)
    assert not isinstance(location_of(tmp_path), Bucket)
