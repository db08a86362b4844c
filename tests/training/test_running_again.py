"""Running again: a new run for each training, under a name that is made for it."""

import copy
import multiprocessing
import pickle
import re
import types

import pytest
from trainings import fit, small_model, strategy_over, unlike_rows

import distwatch as dw
from distwatch.errors import ConfigError, RunExistsError
from distwatch.store.new_runs import order_of
from distwatch.testing.fake import fake_run
from distwatch.training import claiming

DATED = re.compile(r"\d{4}-\d\d-\d\d-\d{4}-digits(-\d+)?\.zarr")


@pytest.fixture(autouse=True)
def script(monkeypatch, tmp_path):
    """A script named digits.py, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    main = types.SimpleNamespace(__file__="/somewhere/digits.py")
    monkeypatch.setitem(claiming.sys.modules, "__main__", main)
    return main


@pytest.fixture(scope="module")
def model():
    return small_model(strategy_over(1))[0]


@pytest.fixture
def begin(model):
    """Have a Watch claim its path as a fit does, and end without a step: where its run is."""

    def begun(watch):
        with watch.attached(model):
            pass
        return watch.path

    return begun


def watch_of(*store, **options):
    return dw.Watch(*store, phases=["train_on_batch"], **options)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("given", [(), ("runs/",)], ids=["nothing", "folder"])
def test_a_script_that_runs_twice_makes_two_runs(tmp_path, begin, given):
    made = [begin(watch_of(*given)) for _ in range(3)]
    names = names_in(tmp_path / "runs")
    assert sorted(path.name for path in made) == names
    assert len(names) == 3
    assert all(map(DATED.fullmatch, names))
    # Numbered, where it was the same minute.
    assert [order_of(path.name) for path in made] == sorted(map(order_of, names))


@pytest.mark.slow
def test_a_watch_in_several_fits_begins_a_run_for_each(tmp_path, capsys):
    watch = dw.Watch("runs/", tensorboard="logs")
    model, _ = small_model(strategy_over(1))
    paths = []
    for _ in range(2):
        model.fit(*unlike_rows(64), batch_size=16, verbose=2, callbacks=[watch])
        paths.append(watch.path)
    assert sorted({path.name for path in paths}) == names_in(tmp_path / "runs")
    assert [len(dw.open_run(path)) for path in paths] == [4, 4]
    assert names_in(tmp_path / "logs") == sorted(path.stem for path in paths)
    assert all(any((tmp_path / "logs" / path.stem).rglob("events.*")) for path in paths)
    said = re.findall("^The run is .*", capsys.readouterr().out, re.MULTILINE)
    assert said == [f"The run is runs/{path.name}." for path in paths]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_further_fit_begins_a_run_beside_the_first(tmp_path, begin, overwrite):
    """Also where the first took the place of an old run, and a stranger has the next name."""
    fake_run(tmp_path / "run-2.zarr", steps=3)
    if overwrite:
        fake_run(tmp_path / "run.zarr", steps=3)
    watch = watch_of("run.zarr", overwrite=overwrite)
    made = [begin(watch), begin(watch), begin(copy.deepcopy(watch))]
    assert [path.name for path in made] == ["run.zarr", "run-3.zarr", "run-4.zarr"]
    assert [len(dw.open_run(path)) for path in made] == [0, 0, 0]
    assert len(dw.open_run("run-2.zarr")) == 3


def test_resume_goes_on_with_the_same_run(tmp_path, begin):
    watch = watch_of("run.zarr", resume=True)
    assert begin(watch) == begin(watch) == tmp_path / "run.zarr"
    assert names_in(tmp_path) == ["run.zarr"]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda w: pickle.loads(pickle.dumps(w))])
def test_a_copy_of_a_watch_is_one_that_has_not_begun(tmp_path, begin, copied):
    """Tuners copy callbacks for each trial."""
    watch = watch_of("runs/", signals=["dense_1"], schedule=dw.every(2))
    begin(watch)
    again = copied(watch)
    assert again.path is None
    assert again.config == watch.config
    assert begin(again) != watch.path
    assert len(names_in(tmp_path / "runs")) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_a_copy_is_called_by_keras_as_the_original_is(tmp_path):
    model, _ = small_model(strategy_over(1))
    for copied in (copy.copy, copy.deepcopy):
        fit(model, *unlike_rows(64), copied(dw.Watch("runs/")))
    assert [len(dw.open_run(path)) for path in (tmp_path / "runs").iterdir()] == [4, 4]


def test_an_existing_run_is_refused_with_the_three_ways_out(tmp_path, begin):
    fake_run(tmp_path / "run.zarr", steps=3)
    with pytest.raises(RunExistsError) as refused:
        begin(watch_of("run.zarr"))
    said = str(refused.value)
    assert "\n" not in said
    for way in (f"{tmp_path}/'", "overwrite=True", "resume=True"):
        assert way in said


def test_a_run_that_is_another_ones_by_now_is_refused(tmp_path, begin):
    watch = watch_of("run.zarr")
    begin(watch).rename(tmp_path / "moved.zarr")
    fake_run(tmp_path / "run.zarr")
    with pytest.raises(RunExistsError, match="holds a run already"):
        begin(watch)


def test_a_folder_without_its_slash_is_told_of(tmp_path, begin):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "letter.txt").write_text("keep me")
    with pytest.raises(RunExistsError, match=r"runs/' for a new run in it"):
        begin(watch_of("runs"))
    fake_run(tmp_path / "old")
    with pytest.raises(RunExistsError, match="is a run itself"):
        begin(watch_of("old/"))


@pytest.mark.parametrize("option", ["resume", "overwrite"])
def test_what_is_there_is_continued_or_replaced_by_its_own_path_only(option):
    with pytest.raises(ConfigError, match=f"{option}=True needs the path of the run"):
        dw.Watch("runs/", **{option: True})
    # A run by its ending, whatever completed its name in a shell.
    assert dw.Watch("run.zarr/", **{option: True}).config.store.name == "run.zarr"


def test_the_model_names_the_run_of_a_notebook(begin, model, script):
    del script.__file__
    assert begin(watch_of("runs/")).stem.endswith(f"-{model.name}")


def test_a_refused_fit_takes_no_name(tmp_path, model):
    watch = watch_of("runs/")
    with pytest.raises(KeyboardInterrupt), watch.attached(model):
        raise KeyboardInterrupt
    assert not (tmp_path / "runs").exists()


def test_runs_in_memory_and_a_loop_of_ones_own(tmp_path, model):
    for store in ("runs/", "memory://again/"):
        paths = []
        for _ in range(2):
            with dw.watching(model, model.optimizer, store) as watch:
                pass
            paths.append(str(watch.path))
        assert len(set(paths)) == 2
        assert all(dw.open_run(path).ended is None for path in paths)


def _claim(folder, ready, names):
    from distwatch.config import watch_config
    from distwatch.training.claiming import Claiming
    from distwatch.training.strategies import tf

    config = watch_config(store=f"{folder}/")
    ready.wait()
    for _ in range(5):
        claim = Claiming(config, tf.distribute.get_strategy(), "train", model="m").claim()
        claim.settle()
        claim.release()
        names.put(str(claim.address))


@pytest.mark.slow
def test_processes_that_start_at_once_get_different_names(tmp_path, script):
    del script.__file__  # which processes of this one would run
    script.__spec__ = None
    context = multiprocessing.get_context("spawn")
    ready, names = context.Barrier(3), context.Queue()
    args = (tmp_path / "runs", ready, names)
    processes = [context.Process(target=_claim, args=args) for _ in range(3)]
    for process in processes:
        process.start()
    found = [names.get(timeout=120) for _ in range(15)]
    for process in processes:
        process.join()
    assert len(set(found)) == 15
    assert len(names_in(tmp_path / "runs")) == 15
