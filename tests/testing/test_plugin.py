"""The pytest plugin, in test runs of its own.

One of them starts a TensorFlow of its own, which takes seconds; what is only about options
has stand-ins for TensorFlow and for the split of the CPU, and what needs no fresh process
runs in ours.
"""

import pytest
import tensorflow as tf

#: What imports TensorFlow is a module of ours.
COUNTS_DEVICES = """
    from distwatch.testing import mirrored, virtual_devices
    import tensorflow as tf

    def test_devices(replicas, strategy):
        assert len(tf.config.list_logical_devices("CPU")) == replicas == 3
        assert isinstance(strategy, tf.distribute.MirroredStrategy)
        assert strategy.num_replicas_in_sync == 3
"""

HAS_ONE_REPLICA = """
    import tensorflow as tf

    def test_one_replica(replicas, strategy):
        assert replicas == strategy.num_replicas_in_sync == 1
        assert isinstance(strategy, tf.distribute.MirroredStrategy)
"""

#: Stands in for the room that splits the CPU.
NOTES = """
    import sys
    import types

    asked = []
    stand_in = types.ModuleType("distwatch.training.virtual_devices")
    stand_in.virtual_devices = asked.append
    sys.modules["distwatch.training.virtual_devices"] = stand_in
"""

#: Stands in for TensorFlow.
TENSORFLOW = """
    import notes

    asked_at_import = list(notes.asked)
"""

ASKS_FOR_TWO = """
    import sys

    import notes

    def test_without_tensorflow(replicas):
        assert replicas == 2
        assert notes.asked == []
        assert "tensorflow" not in sys.modules

    def test_with_tensorflow(replicas):
        import tensorflow

        assert tensorflow.__spec__.loader is tensorflow.__loader__
        assert tensorflow.asked_at_import == []
        assert set(notes.asked) == {2}
        notes.asked.clear()
        import tensorflow
        assert notes.asked == []
"""

LOADS_NOTHING = """
    import sys

    TRAINING = "distwatch.training.strategies"
    LARGE = {"tensorflow", "keras", "xarray", "zarr", "numpy", "pydantic", TRAINING}

    def test_loads_nothing():
        assert "distwatch.testing.plugin" in sys.modules
        assert LARGE & set(sys.modules) == set()
"""

NEEDS_STRATEGY = """
    def test_needs_strategy(strategy):
        pass

    def test_needs_none():
        pass
"""

STARTS_TENSORFLOW = """
    import tensorflow as tf

    tf.constant(1.0)
"""


@pytest.fixture
def run(pytester):
    """Run pytest on one test file, as a user would."""

    def run(test, *arguments):
        pytester.makepyfile(test)
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)

    return run


@pytest.fixture
def noting(run, pytester, monkeypatch):
    """Run tests on two replicas with notes in place of virtual devices."""
    pytester.makepyfile(notes=NOTES, tensorflow=TENSORFLOW)
    monkeypatch.setenv("PYTHONPATH", str(pytester.path))
    return lambda *arguments: run(ASKS_FOR_TWO, "-p", "notes", *arguments)


@pytest.mark.slow
def test_devices_are_split_before_a_conftest_starts_tensorflow(run, pytester):
    pytester.makeconftest(STARTS_TENSORFLOW)
    result = run(COUNTS_DEVICES, "--replicas", "3")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["distwatch: 3 virtual CPU devices"])


def test_ini(noting, pytester):
    pytester.makeini("[pytest]\ndistwatch_replicas = 2")
    noting().assert_outcomes(passed=2)


@pytest.mark.slow
def test_the_option_wins_over_the_ini(noting, pytester):
    pytester.makepyprojecttoml("[tool.pytest.ini_options]\ndistwatch_replicas = 3")
    noting("--replicas=2").assert_outcomes(passed=2)


@pytest.mark.slow
def test_loaded_by_every_name_at_once(noting, pytester):
    pytester.makeconftest('pytest_plugins = ["distwatch.testing.plugin"]')
    noting("--replicas=2").assert_outcomes(passed=2)
    noting("--replicas=2", "-p", "distwatch.testing.plugin").assert_outcomes(passed=2)


def test_named_by_a_conftest_only(noting, pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini("[pytest]\ndistwatch_replicas = 2")
    pytester.makeconftest('pytest_plugins = ["distwatch.testing.plugin"]')
    noting().assert_outcomes(passed=2)


def test_asked_it_loads_nothing_until_a_test_does(run, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    result = run(LOADS_NOTHING, "-p", "distwatch.testing.plugin", "--replicas=2")
    result.assert_outcomes(passed=1)


def test_not_asked_it_loads_nothing(run, monkeypatch):
    # Zarr has a pytest plugin, too, and that one loads NumPy.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    run(LOADS_NOTHING, "-p", "distwatch.testing.plugin").assert_outcomes(passed=1)


@pytest.fixture
def run_here(pytester):
    """Run pytest on one test file in this process, whose TensorFlow has started."""
    started = len(tf.config.list_logical_devices("CPU"))

    def run(test, *arguments):
        pytester.makepyfile(test)
        return pytester.runpytest_inprocess(*arguments)

    run.started = started
    return run


def test_one_replica_is_mirrored_too(run_here):
    run_here(HAS_ONE_REPLICA, "--replicas=1").assert_outcomes(passed=1)


def test_not_asked_the_fixtures_say_how_to_ask(run_here):
    result = run_here(NEEDS_STRATEGY)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(
        ["this test needs replicas: pass --replicas 4 to pytest, or set distwatch_replicas*"]
    )
    result.stdout.no_fnmatch_line("*Traceback*")


def assert_usage_error(result, message):
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {message}"])
    assert "Traceback" not in result.stderr.str()


def test_tensorflow_started_with_fewer(run_here):
    more = run_here.started + 1
    assert_usage_error(
        run_here(NEEDS_STRATEGY, f"--replicas={more}"),
        f"{more} virtual devices were asked for, but TensorFlow has already started "
        f"with {run_here.started};*",
    )


@pytest.mark.parametrize("bad", ["0", "-1", "2.5", "many", ""])
def test_a_bad_option_is_a_usage_error(run_here, bad):
    result = run_here(NEEDS_STRATEGY, "--replicas", bad)
    assert_usage_error(result, f"--replicas='{bad}' is not a whole number from 1;*")


def test_a_bad_setting_is_a_usage_error(run_here, pytester):
    pytester.makeini("[pytest]\ndistwatch_replicas = none")
    result = run_here(NEEDS_STRATEGY)
    assert_usage_error(result, "distwatch_replicas='none' is not a whole number from 1;*")


def test_help_names_the_option_and_the_setting(run_here):
    result = run_here(NEEDS_STRATEGY, "--help")
    result.stdout.fnmatch_lines(["*--replicas=N*", "*distwatch_replicas*"])
