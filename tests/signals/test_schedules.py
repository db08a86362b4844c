import numpy as np
import pytest
import tensorflow as tf

from distwatch.errors import ConfigError
from distwatch.signals.schedules import at, every, first, from_mapping, logarithmic

CASES = [
    (every(1), range(200)),
    (every(7), range(0, 200, 7)),
    (at(3), [3]),
    (at(10, 0, 10, 150), [0, 10, 150]),
    (first(1), [0]),
    (first(12), range(12)),
    (logarithmic(100, per_decade=2), [0, 2, 5, 15, 39, 100]),
]


@pytest.mark.parametrize(("schedule", "steps"), CASES, ids=lambda case: str(case)[:40])
def test_looks_at_its_steps(schedule, steps):
    assert [step for step in range(200) if schedule(step)] == list(steps)


@pytest.mark.parametrize("schedule", [case[0] for case in CASES], ids=str)
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_numpy_and_tensors_agree(schedule, dtype):
    steps = np.arange(200, dtype=dtype)
    one_by_one = [bool(schedule(int(step))) for step in steps]
    decided = schedule(steps)
    assert decided.dtype == bool
    assert decided.tolist() == one_by_one
    eager = schedule(tf.constant(steps))
    assert eager.dtype == tf.bool
    assert eager.numpy().tolist() == one_by_one
    traced = tf.function(lambda step: schedule.decide(step, schedule.parameters))
    assert traced(tf.constant(steps)).numpy().tolist() == one_by_one


def test_the_k_of_every_changes_in_a_graph_without_a_retrace():
    schedule = every(2)
    k = tf.Variable(schedule.k, dtype=tf.int64)
    traces = []

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
    def decide(steps):
        traces.append(1)
        return schedule.decide(steps, (k,))

    steps = np.arange(10)
    assert np.flatnonzero(decide(tf.constant(steps))).tolist() == [0, 2, 4, 6, 8]
    schedule.k = 3
    k.assign(schedule.parameters[0])
    assert np.flatnonzero(decide(tf.constant(steps))).tolist() == [0, 3, 6, 9]
    assert np.flatnonzero(schedule(steps)).tolist() == [0, 3, 6, 9]
    assert len(traces) == 1


@pytest.mark.parametrize("until", [1, 9, 10, 99, 1000, 123_456])
def test_logarithmic_looks_ever_more_rarely_from_first_to_last(until):
    steps = np.array(logarithmic(until, per_decade=5).steps)
    assert steps[0] == 0
    assert steps[-1] == until
    assert np.all(np.diff(steps) >= 1)
    # Evenly spaced on a logarithmic axis, once the spacing is more than a step or two.
    ratios = (steps[1:] + 1) / (steps[:-1] + 1)
    late = steps[:-1] > 30
    assert np.all(ratios[late] < 10 ** (1 / 5) * 1.1)
    assert len(steps) <= 5 * np.log10(until + 1) + 2


@pytest.mark.parametrize("bad", [0, -1, 1.5, "3", None, True, np.float64(2)])
@pytest.mark.parametrize("make", [every, first, logarithmic])
def test_a_count_is_a_whole_number_from_1(make, bad):
    with pytest.raises(ConfigError, match="is not a whole number from 1") as error:
        make(bad)
    assert make.__name__ in str(error.value)


def test_logarithmic_refuses_no_looks_a_decade():
    with pytest.raises(ConfigError, match="per_decade"):
        logarithmic(100, per_decade=0)


@pytest.mark.parametrize("bad", [(), (-1,), (1.0,), ("a",), (True,), (3, None)])
def test_at_takes_whole_numbers_from_0(bad):
    with pytest.raises(ConfigError, match="name one or more steps"):
        at(*bad)


def test_numbers_of_numpy_are_numbers():
    assert every(np.int64(3))(6)
    assert at(np.int32(3))(3)


@pytest.mark.parametrize(
    ("schedule", "text"),
    [
        (every(10), "every(10)"),
        (first(3), "first(3)"),
        (at(5, 1), "at(5, 1)"),
        (logarithmic(50), "logarithmic(50, per_decade=10)"),
    ],
)
def test_says_what_it_is(schedule, text):
    assert str(schedule) == text


@pytest.mark.parametrize(
    ("mapping", "schedule"),
    [
        ({"every": 10}, every(10)),
        ({"first": 100}, first(100)),
        ({"at": [0, 10]}, at(0, 10)),
        ({"at": 7}, at(7)),
        ({"logarithmic": 1000}, logarithmic(1000)),
    ],
)
def test_reads_what_configuration_files_say(mapping, schedule):
    assert from_mapping(mapping) == schedule


@pytest.mark.parametrize(
    "bad",
    [{}, {"every": 1, "first": 2}, {"evry": 1}, "every", 10, None, ["every", 10], {1: 2}],
    ids=str,
)
def test_refuses_what_is_no_schedule(bad):
    with pytest.raises(ConfigError, match=r"write one of \{every: 10\}"):
        from_mapping(bad)


@pytest.mark.parametrize(
    "bad",
    [{"every": 0}, {"first": "x"}, {"at": "12"}, {"at": []}, {"logarithmic": None}],
    ids=str,
)
def test_refuses_wrong_values_of_known_schedules(bad):
    with pytest.raises(ConfigError, match="whole number"):
        from_mapping(bad)
