"""What a learner's code may do while it is tried: fail, leave, never end, answer with objects that lie."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from toy import step_answer, toy_room, verdict  # noqa: F401

from labkit.course import Outcome, call, find, judge, run
from labkit.course.limit import TimeLimit, TimeUp
from labkit.course.plain import Other, plain

pytestmark = pytest.mark.usefixtures("toy_room")


def test_an_exception_is_told_in_one_line_at_the_learners_line():
    def broken(state, k, v, beta):
        recalled = state.T @ k
        return recalled / 0 if len(k) < 3 else 1 // 0

    def calls_torch_wrongly(state, k, v, beta):
        return torch.einsum("ab,b->c", state, v)

    found = verdict(broken)
    assert found.status == "error" and "(3, 2)" in found.probe
    assert found.message == (
        "ZeroDivisionError: integer division or modulo by zero at line 3 of broken: "
        "`return recalled / 0 if len(k) < 3 else 1 // 0`"
    )
    found = verdict(calls_torch_wrongly)
    assert found.message.startswith("RuntimeError: ") and found.message.count("\n") == 0
    assert "at line 2 of calls_torch_wrongly" in found.message
    assert verdict(lambda state: state).message.startswith("TypeError: ")


def test_a_learner_who_leaves_does_not_take_the_kernel_along():
    def leaves(state, k, v, beta):
        raise SystemExit(0)

    assert verdict(leaves).status == "error" and verdict(leaves).message.startswith("SystemExit: 0 at line 2")


@pytest.mark.parametrize("sleep", [False, True])
def test_a_loop_without_an_end_is_stopped_and_its_line_is_shown(sleep):
    def endless(state, k, v, beta):
        while True:
            time.sleep(60 if sleep else 0)

    before = time.monotonic()
    found = verdict(endless, seconds=0.3)
    assert time.monotonic() - before < 5
    assert found.status == "timeout"
    assert found.message.startswith("not done after 0.3 s at line ") and "endless" in found.message


def test_a_loop_that_swallows_every_exception_once_is_stopped_too():
    def stubborn(state, k, v, beta):
        try:
            while True:
                pass
        except BaseException:
            while True:
                pass

    only = find("toy.step").probes(0)[:1]
    assert [outcome.status for outcome in run(stubborn, only, seconds=0.2)] == ["timeout"]


def test_an_alarm_does_not_ring_after_the_check():
    handler, threads = signal.getsignal(signal.SIGINT), threading.active_count()
    for i in range(200):  # the alarm comes at every moment of the check's coming and going
        run(lambda: None, [()] * 20, seconds=i * 5e-6)
        assert signal.getsignal(signal.SIGINT) is handler and threading.active_count() == threads
    time.sleep(0.6)  # a late alarm would be an exception here


def test_the_learners_own_interrupt_is_an_interrupt():
    def interrupted(state, k, v, beta):
        signal.raise_signal(signal.SIGINT)  # what Ctrl-C and JupyterLab's stop button send

    with pytest.raises(KeyboardInterrupt):
        verdict(interrupted)


def test_an_alarm_at_the_very_end_does_not_stop_the_clearing_up():
    limit = TimeLimit(10)
    limit.inside = limit.expired = True
    leaving = SimpleNamespace(f_code=TimeLimit.__exit__.__code__)
    assert limit._interrupted(signal.SIGINT, leaving) is None
    with pytest.raises(TimeUp):
        limit._interrupted(signal.SIGINT, SimpleNamespace(f_code=compile("", "a learner's cell", "exec")))


def test_another_thread_can_check_too():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(verdict, step_answer).result().status == "pass"


def test_the_judge_reads_data_only_and_does_not_trust_their_number():
    asked = find("toy.step")
    probes = asked.probes(3)
    outcomes = run(step_answer, probes)
    assert all(type(outcome.value) is torch.Tensor for outcome in outcomes)
    assert judge(asked, probes, outcomes).status == "pass"
    assert judge(asked, probes, outcomes[:-1]).status == "error"
    assert judge(asked, probes, []).status == "error"
    assert judge(asked, probes, [Outcome("returned", True)] * len(probes)).status == "wrong"


class Agreeable:
    """Equal to everything, and of any class that is asked for."""

    __class__ = torch.Tensor  # type: ignore[assignment]
    shape, dtype = torch.Size([2, 3]), torch.float64

    def __eq__(self, other):
        return True

    def __getattr__(self, name):
        return lambda *args, **kwargs: self


class AgreeableTensor(torch.Tensor):
    @classmethod
    def __torch_function__(cls, fn, types, args=(), kwargs=None):
        return True


class AgreeableNumber(float):
    def __eq__(self, other):
        return True


def test_an_object_that_agrees_with_everything_convinces_nobody():
    assert verdict(lambda *args, **kwargs: Agreeable()).property == "type"
    assert verdict(lambda state, k, v, beta: state.as_subclass(AgreeableTensor)).property == "values"
    assert verdict(lambda *args, **kwargs: step_answer(*args, **kwargs).as_subclass(AgreeableTensor)).status == "pass"
    assert (
        verdict(lambda x: {"mean": x.mean(), "rest": (x - x.mean(), AgreeableNumber())}, "toy.moments").status
        == "wrong"
    )
    assert type(plain(AgreeableNumber())) is Other


def test_an_answer_is_what_it_was_when_it_was_returned():
    kept = torch.zeros(2, 3, dtype=torch.float64)

    def same_buffer(state, k, v, beta):
        kept.copy_(step_answer(state, k, v, beta))
        return kept

    probes = find("toy.step").probes(0)[:1] * 2
    first, _ = run(same_buffer, [probes[0], call(-probes[0].args[0], *probes[0].args[1:], **probes[0].kwargs)])
    assert judge(find("toy.step"), probes[:1], [first]).status == "pass"


def test_answers_that_need_gradients_are_read_all_the_same():
    assert verdict(lambda state, k, v, beta: step_answer(state.requires_grad_(), k, v, beta)).status == "pass"
    assert verdict(lambda *args, **kwargs: torch.nn.Parameter(step_answer(*args, **kwargs))).status == "pass"
