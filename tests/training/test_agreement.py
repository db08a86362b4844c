"""Several workers do the same thing after the same execution, or none does it."""

import collections
import dataclasses
import itertools
import json
import time

import pytest
from trainings import strategy_over

from distwatch.errors import ActionFailedWarning
from distwatch.records import RunInfo
from distwatch.store import claim_new, claim_with, location_of, request
from distwatch.store.plans import Plan, plans_name, plans_of
from distwatch.store.schema import root_attributes
from distwatch.training import agreement
from distwatch.training.agreement import LOOK_EVERY, LOOKS_AHEAD, agreement_of
from distwatch.training.strategies import facts_of

INFO = RunInfo((), (0,), "none", {})
ATTRIBUTES = root_attributes(INFO, "2026-01-01T00:00:00+00:00", "a")


@pytest.fixture
def workers(tmp_path):
    """Makes the agreements of so many workers about one run."""
    claims = []

    def make(count):
        facts = dataclasses.replace(facts_of(strategy_over(1)), workers=count)
        claims.append(claim_new(tmp_path / "run.zarr", ATTRIBUTES))
        for worker in range(1, count):
            claims.append(claim_with(tmp_path / "run.zarr", "a", worker, start=0, wait=1.0))
        for claim in claims:
            claim.settle()
        return [
            agreement_of(claim, dataclasses.replace(facts, worker=worker))
            for worker, claim in enumerate(claims)
        ]

    yield make
    for claim in claims:
        claim.release()


def train(workers, executions, *, asking=lambda execution: None, watching=lambda w: True):
    """Executions in lockstep, of workers that come in any order: what each does, and when.

    Returns:
        For each worker its (execution, plan).
    """
    done = [[] for _ in workers]
    orders = itertools.cycle(itertools.permutations(range(len(workers))))
    for execution in range(1, executions + 1):
        asking(execution)
        for worker in next(orders):
            agreed = workers[worker].after_execution(goes_on=watching(worker))
            done[worker] += [(execution, plan) for plan in agreed]
    return done


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("asks", ["first", "last"])
@pytest.mark.parametrize("at", [1, LOOK_EVERY - 1, LOOK_EVERY, LOOK_EVERY + 1])
def test_all_stop_after_the_same_execution(workers, count, asks, at):
    made = workers(count)
    who = made[0 if asks == "first" else -1]
    stops = {at: lambda: who.stop("Loss is NaN.")}
    done = train(made, 200, asking=lambda now: stops.get(now, lambda: None)())
    assert {len(each) for each in done} == {1}
    ((when, plan),) = {each[0] for each in done}
    assert plan.stop == "Loss is NaN."
    # Asked, planned, followed, decided and done; in which order they look varies.
    assert (when % LOOK_EVERY, when - at <= 5 * LOOK_EVERY) == (0, True)


def test_who_asks_for_the_same_is_done_with_one_stop(workers):
    made = workers(3)
    ask = {5: made[0], 6: made[1], 40: made[2]}
    done = train(made, 80, asking=lambda now: now in ask and ask[now].stop(f"At {now}."))
    assert done[0] == done[1] == done[2]
    assert [plan.stop for _, plan in done[0]] in (["At 5."], ["At 6."])


def test_schedules_change_for_all_in_the_order_in_which_it_was_asked(workers):
    made = workers(2)
    wishes = [request(signals="gradient/*", every=5), request(signals=["re:a.*"], every="off")]
    for each in wishes:
        made[0].change(each, "call")
    done = train(made, 100)
    assert done[0] == done[1]
    assert [plan.request for _, plan in done[0]] == wishes
    assert {plan.by for _, plan in done[0]} == {"call"}


def test_where_one_does_not_watch_any_more_nobody_stops(workers):
    made = workers(3)
    made[0].stop("Loss is NaN.")
    with pytest.warns(ActionFailedWarning, match="not stopped: worker 2 did not say") as said:
        done = train(made, 200, watching=lambda worker: worker != 2)
    assert (done, len(said)) == ([[], [], []], 1)


def test_who_has_agreed_does_it_even_if_its_watching_ends_then(workers):
    made = workers(2)
    made[0].stop("Loss is NaN.")
    # It has said to follow at the second look.
    executions = itertools.count()

    def watching(worker):
        return worker == 0 or next(executions) < 2 * LOOK_EVERY

    done = train(made, 200, watching=watching)
    assert [len(each) for each in done] == [1, 1]
    assert done[0] == done[1]


def test_a_worker_that_finds_a_plan_too_late_has_all_others_go_on(workers, monkeypatch):
    """As where a folder shows late what was written."""
    made = workers(2)
    reads = agreement.plans_of

    def late(location, worker, start):
        plans = reads(location, worker, start)
        early = made[1]._executions < (LOOKS_AHEAD + 2) * LOOK_EVERY
        return [each for each in plans if each.said != "plan"] if early else plans

    made[0].stop("Loss is NaN.")
    monkeypatch.setattr(agreement, "plans_of", late)
    with pytest.warns(ActionFailedWarning, match="not stopped: worker 1 did not say"):
        done = train(made, 200)
    assert done == [[], []]


@pytest.mark.fast_cases("1")
@pytest.mark.parametrize("looks", [1, 2, 3])
def test_a_worker_that_cannot_read_what_was_decided_tries_until_it_can(
    workers, monkeypatch, looks
):
    """From some look on its first two tries fail, as of a folder on another machine."""
    made = workers(3)
    monkeypatch.setattr(agreement, "PATIENCE", 0.3)
    reads, failed = agreement.plans_of, collections.Counter()

    def failing(location, worker, start):
        now = made[1]._executions
        if worker == 0 and made[1]._open and now > looks * LOOK_EVERY and failed[now] < 2:
            failed[now] += 1
            raise OSError("no answer")
        return reads(location, worker, start)

    made[0].stop("Loss is NaN.")
    monkeypatch.setattr(agreement, "plans_of", failing)
    done = train(made, 200)
    assert [len(each) for each in done] == [1, 1, 1]
    assert done[0] == done[1] == done[2]


def test_what_is_followed_too_late_is_not_counted_by_anybody(workers, monkeypatch):
    """Worker 1 writes that it follows, and the file is seen by the first one much later."""
    made = workers(2)
    reads = agreement.plans_of

    def unseen(location, worker, start):
        plans = reads(location, worker, start)
        early = made[0]._executions < 10 * LOOK_EVERY
        return [] if worker == 1 and early else plans

    made[0].stop("Loss is NaN.")
    monkeypatch.setattr(agreement, "plans_of", unseen)
    with pytest.warns(ActionFailedWarning, match="not stopped: worker 1"):
        assert train(made, 400) == [[], []]
    assert [each.said for each in plans_of(made[0]._location, 1, 0)] == ["join", "follow"]


def test_a_disk_that_hangs_is_not_waited_for_again_and_again(workers, monkeypatch):
    made = workers(2)
    monkeypatch.setattr(agreement, "PATIENCE", 0.2)
    answers = agreement.threading.Event()
    monkeypatch.setattr(agreement, "plans_of", lambda *where: answers.wait(20) and [])
    begun = time.monotonic()
    train(made, 20 * LOOK_EVERY)
    waited = time.monotonic() - begun
    answers.set()
    # At each of 20 looks of two workers it would be 8 seconds.
    assert 0.4 <= waited < 4.0


def test_a_disk_that_does_not_answer_is_waited_for_a_moment(workers, monkeypatch):
    made = workers(2)
    monkeypatch.setattr(agreement, "PATIENCE", 0.01)
    answers = agreement.threading.Event()
    reads = agreement.plans_of

    def slow(location, worker, start):
        answers.wait(10)
        return reads(location, worker, start)

    monkeypatch.setattr(agreement, "plans_of", slow)
    made[0].stop("Loss is NaN.")
    # Nobody can know of the plan, so nobody follows.
    with pytest.warns(ActionFailedWarning, match="not stopped"):
        assert train(made, 100) == [[], []]
    answers.set()
    for each in made:
        each._reading.join()
    monkeypatch.setattr(agreement, "PATIENCE", 30.0)
    made[0].stop("Loss is NaN.")
    assert [len(each) for each in train(made, 100)] == [1, 1]


@pytest.mark.parametrize("line", [b"", b"{", b'{"said": "go"}', b"5", b"\xff", b"[" * 9999])
def test_what_cannot_be_understood_is_passed_over(tmp_path, line):
    known = Plan(said="plan", number=1, after=48, stop="Why.").line()
    location_of(tmp_path / "run.zarr").make()
    content = line + b"\n" + known + b'{"said": "plan"'
    location_of(tmp_path / "run.zarr").write([(plans_name(0, 0), content)])
    (found,) = plans_of(location_of(tmp_path / "run.zarr"), 0, 0)
    assert (found.number, found.after, found.stop) == (1, 48, "Why.")
    assert json.loads(known) == {"said": "plan", "number": 1, "after": 48, "stop": "Why."}
