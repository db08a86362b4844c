"""The budget's decisions, in a training that is made up: its clock is a number."""

import itertools

import numpy as np
import pytest

from distwatch.signals import Adjustable, Measuring
from distwatch.signals.schedules import every, first
from distwatch.training.measuring import RAREST, ROUNDS, Trial, estimate_of
from distwatch.training.overhead import MOST_WIDENING, Overhead, widenings_for


class MadeUpTraining:
    """Steps that take as long as is said, on a clock that only they and the host move."""

    def __init__(self, costs, *, most=0.05, k=1, base=1e-3, noise=0.0, host=0.0, spe=1, seed=0):
        self.costs, self.base, self.noise, self.host, self.spe = costs, base, noise, host, spe
        self.schedules = [Adjustable(every(k)) for _ in costs]
        self.time, self.unobserved, self.steps = 0.0, 0.0, 0
        self.looks = np.zeros(len(costs), int)
        self.events = []
        self._random = np.random.default_rng(seed)
        self.overhead = Overhead(most, self.schedules, lambda: self.steps, lambda: self.time)

    def train(self, steps, interrupt_every=None):
        for execution in range(steps // self.spe):
            took = 0.0
            for step in range(self.steps, self.steps + self.spe):
                looks = [bool(schedule(step)) for schedule in self.schedules]
                self.looks += looks
                disturbed = self._random.exponential(self.noise) if self.noise else 0.0
                self.unobserved += self.base * (1 + disturbed)
                took += self.base * (1 + disturbed + float(np.dot(looks, self.costs)))
            self.steps += self.spe
            self.time += took
            if interrupt_every and execution % interrupt_every == 0:
                # A validation, which takes long and is no step.
                self.overhead.interrupt()
                self.time, self.unobserved = self.time + 1, self.unobserved + 1
            self.events += self.overhead.after_steps(self.spe)
            self.time += self.host
            self.overhead.leave(drained=False)
        return self

    @property
    def ratio(self):
        """How long it took, relative to the same training unobserved."""
        return self.time / self.unobserved

    @property
    def widenings(self):
        return [schedule.widening for schedule in self.schedules]

    @property
    def used(self):
        return sum(cost / each for cost, each in zip(self.costs, self.widenings, strict=True))


def test_what_fits_is_looked_at_as_asked_for():
    training = MadeUpTraining([0.02, 0.02]).train(20_000)
    assert training.widenings == [1, 1]
    assert {event.what for event in training.events} == {"measuring", "measured"}
    # Only the measurements left steps out, and they are declared.
    declared = sum(e.until - e.first for e in training.events if e.until)
    assert np.all(training.looks >= training.steps - declared)
    assert np.all(training.looks > 0.95 * training.steps)


@pytest.mark.parametrize("base", [1e-4, 1.0])
@pytest.mark.parametrize("cost", [0.06, 0.2, 1.5, 7.0])
def test_one_signal_that_is_too_dear_is_looked_at_more_rarely(cost, base):
    training = MadeUpTraining([cost], base=base).train(2_000)
    assert 0.025 <= training.used <= 0.05
    assert [e.what for e in training.events[:3]] == ["measuring", "measured", "widened"]


def test_the_dearest_is_widened_first():
    training = MadeUpTraining([0.30, 0.004, 0.006]).train(2_000)
    assert training.widenings[1:] == [1, 1]
    assert training.widenings[0] > 4


@pytest.mark.parametrize("seed", range(40))
def test_half_of_the_budget_is_used_and_never_more_than_all_of_it(seed):
    random = np.random.default_rng(seed)
    costs = list(10 ** random.uniform(-4, 0.5, random.integers(1, 9)))
    most = 10 ** random.uniform(-2, 0)
    fixed = random.uniform(0, 0.4) * most
    widenings = widenings_for(costs, most, fixed)
    used = fixed + sum(cost / each for cost, each in zip(costs, widenings, strict=True))
    assert used <= most
    if fixed + sum(costs) > most:
        assert used >= most / 2
    else:
        assert set(widenings) == {1}


def test_what_can_never_fit_is_widened_no_further_than_helps():
    assert widenings_for([0.5], 0.05, fixed=1.0) != [1]
    assert widenings_for([1e9], 0.05) == [MOST_WIDENING]
    assert widenings_for([0.0, 0.0], 0.05, fixed=1.0) == [1, 1]
    assert widenings_for([], 0.05, fixed=1.0) == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("costs", [[0.01, 0.01], [0.4, 0.02, 0.05]])
def test_noise_does_not_mislead_it(costs, seed):
    """A step takes a tenth longer than another one, by chance, and now and then half."""
    training = MadeUpTraining(costs, noise=0.1, seed=seed).train(30_000)
    assert training.used <= 0.065
    if sum(costs) > 0.05:
        assert training.used >= 0.02
    else:
        assert training.widenings == [1, 1]


def test_the_whole_training_keeps_within_the_budget_measurements_included():
    training = MadeUpTraining([1.0, 0.2], noise=0.1).train(60_000)
    assert training.ratio <= 1.05 + 0.02


@pytest.mark.parametrize(("before", "after"), [(1.0, 0.1), (0.1, 1.0)])
def test_it_follows_a_load_that_changes(before, after):
    training = MadeUpTraining([before]).train(3_000)
    was = training.widenings[0]
    # The steps take longer or shorter, and so the same look is another part of them.
    training.base *= before / after
    training.costs = [after]
    training.train(12_000)
    assert training.widenings[0] != was
    assert 0.025 <= training.used <= 0.05
    assert training.events[-1].what == ("narrowed" if after < before else "widened")


def test_a_steady_state_is_left_alone():
    training = MadeUpTraining([0.5], noise=0.05).train(60_000)
    assert sum(event.what in ("widened", "narrowed") for event in training.events) == 1


@pytest.mark.parametrize("k", [3, 10])
def test_a_cadence_that_was_asked_for_is_multiplied(k):
    training = MadeUpTraining([4.0], k=k).train(6_000)
    used = 4.0 / k / training.widenings[0]
    assert 0.025 <= used <= 0.05
    looked = [step for step in range(500) if training.schedules[0](step)]
    assert looked == list(range(0, 500, k * training.widenings[0]))


def test_executions_of_many_steps():
    training = MadeUpTraining([0.4], spe=100).train(20_000)
    assert 0.025 <= training.used <= 0.05


def test_what_the_host_does_counts_too():
    with_host = MadeUpTraining([0.04], host=0.03e-3).train(2_000)
    assert with_host.widenings[0] > 1
    assert MadeUpTraining([0.04]).train(2_000).widenings == [1]


def test_a_validation_is_no_step():
    training = MadeUpTraining([0.4]).train(4_000, interrupt_every=7)
    assert 0.025 <= training.used <= 0.05


def test_steps_by_name_and_rare_looks_are_left_as_they_are():
    training = MadeUpTraining([9.0, 9.0])
    rare = Adjustable(every(RAREST + 1))
    training.schedules[:] = [Adjustable(first(50)), rare]
    training.overhead = Overhead(0.05, training.schedules, lambda: training.steps)
    training.train(1_000)
    assert training.events == []
    assert training.looks.tolist() == [50, 8]


def test_what_is_off_stays_off_and_what_is_set_counts():
    training = MadeUpTraining([0.5, 0.5])
    training.schedules[0].is_on = False
    training.train(2_000)
    assert training.looks[0] == 0
    assert training.widenings[0] == 1
    training.schedules[1].every = 20
    training.train(500)
    # Every 20th step costs half of the budget, so nothing more is left out.
    assert training.schedules[1].now == "every(20)"
    training.schedules[0].is_on = True
    training.train(3_000)
    shares = [0.5 / training.widenings[0], 0.5 / 20 / training.widenings[1]]
    assert 0.025 <= sum(shares) <= 0.05


def test_a_measurement_that_is_overtaken_by_a_request_is_given_up():
    training = MadeUpTraining([0.5])
    while training.schedules[0].measuring is None:
        training.train(1)
    training.schedules[0].every = 7
    training.train(1)
    assert training.schedules[0].measuring is None
    assert [event.what for event in training.events] == ["measuring", "measured"]
    assert "given up" in training.events[1].why
    assert (training.events[1].first, training.events[1].until) == (11, training.steps)


def test_a_measurement_never_ends_with_a_schedule_held():
    training = MadeUpTraining([0.5, 0.1]).train(5_000)
    while training.schedules[0].measuring is None:
        training.train(1)
    held = [each.measuring for each in training.schedules]
    assert set(held) == {Measuring.OFF}
    training.train(1_000)
    assert [each.measuring for each in training.schedules] == [None, None]


def test_an_interval_holds_the_median_as_often_as_it_says():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        found = estimate_of(list(random.exponential(size=ROUNDS)))
        held += found.low <= np.log(2) <= found.high
    assert held / 400 > 0.93


def test_rounds_are_forwards_and_backwards():
    trial = Trial([Adjustable(every(1)), Adjustable(every(1))], 0)
    order = []
    for _ in itertools.repeat(None, 8 * trial.length):
        order.append(trial._left[0].units)
        trial.add(1, 1.0)
    assert [units for units, _ in itertools.groupby(order)] == [
        *[(), (0,), (1,), (0, 1)],
        *[(1,), (0,), ()],
    ]


def test_a_measurement_may_leave_out_that_all_look_together():
    trial = Trial([Adjustable(every(1)), Adjustable(every(1))], 0, length=3, together=False)
    seconds = {(): 1.0, (0,): 1.5, (1,): 2.0}
    for _ in itertools.repeat(None, 3 * 3 * ROUNDS - 2):
        trial.add(1, seconds[trial._left[0].units])
    assert trial.steps == 3 * 3 * ROUNDS - 2
    # The last stretch is not whole, and its round does not count.
    trial.drop_incomplete()
    assert trial.costs() == {(0,): [0.5] * (ROUNDS - 1), (1,): [1.0] * (ROUNDS - 1)}


def test_a_budget_tells_what_it_measured():
    training = MadeUpTraining([0.5, 0.1]).train(5)
    assert training.overhead.costs == {}
    training.train(2_000)
    assert {i: each.value for i, each in training.overhead.costs.items()} == {
        0: pytest.approx(0.5),
        1: pytest.approx(0.1),
    }
