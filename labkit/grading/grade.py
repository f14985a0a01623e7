"""The judge's side: starts a process for each attempt, waits no longer than it may, and compares what comes back."""

import functools
import multiprocessing
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, get_args, get_type_hints

from labkit.course import Exercise, Outcome, Verdict, exercises, judge, rooms
from labkit.course.judging import Answered, answers
from labkit.course.registry import Probes
from labkit.course.running import SECONDS, as_call

from . import worker
from .notebook import Attempt, Unreadable, attempts
from .wire import Garbled, decode, encode

GRACE = 5.0  # seconds beyond the limit that the process sets itself, for starting and sending
STATUSES = get_args(get_type_hints(Outcome)["status"])


@dataclass(frozen=True)
class Result:
    """One exercise of one notebook. `flags`: what the code tried that an answer has no need of; it costs the points."""

    id: str
    verdict: Verdict
    difficulty: int
    flags: tuple[str, ...] = ()

    @property
    def points(self) -> int:
        """The exercise's difficulty where it is solved, else nothing."""
        return self.difficulty if self.verdict.status == "pass" and not self.flags else 0


@dataclass(frozen=True)
class Graded:
    """One notebook: its exercises in the lesson's order, or the `problem` that kept it from being graded."""

    path: Path
    results: tuple[Result, ...] = ()
    problem: str = ""
    notes: tuple[str, ...] = ()

    @property
    def points(self) -> int:
        """What its solved exercises are worth."""
        return sum(result.points for result in self.results)

    @property
    def of(self) -> int:
        """What all its exercises are worth."""
        return sum(result.difficulty for result in self.results)


def notebooks(paths: Iterable[Path]) -> list[Path]:
    """The notebooks among these files and folders, sorted within a folder. Raises FileNotFoundError."""
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"there is no {path}: give a notebook, or a folder with notebooks in it")
        inside = [
            p for p in path.rglob("*.ipynb") if not any(part.startswith(".") for part in p.relative_to(path).parts)
        ]
        found += sorted(inside) if path.is_dir() else [path]
    if not found:
        raise FileNotFoundError(f"there is no notebook in {', '.join(map(str, paths))}")
    return list(dict.fromkeys(found))


def grade(
    paths: Sequence[Path],
    *,
    seed: int | None = None,
    seconds: float = SECONDS,
    tick: Callable[[Graded], None] = lambda graded: None,
) -> list[Graded]:
    """Grade these notebooks; `tick` is called with each as it is done.

    The probes are of a seed that is drawn anew each time; give one to have the same again. `seconds` are for one
    exercise. Nothing in a notebook can stop this: what goes wrong is the result of that exercise, or of that notebook.
    """
    judges = Judges(secrets.randbits(31) if seed is None else seed)
    graded, pool = [], ThreadPoolExecutor(os.cpu_count() or 1)
    try:  # all are begun at once: while one waits for its limit, others go on
        for done in [_begun(path, judges, seconds, pool) for path in paths]:
            graded.append(done())
            tick(graded[-1])
    finally:
        pool.shutdown(cancel_futures=True)
    return graded


def _begun(path: Path, judges: "Judges", seconds: float, pool: ThreadPoolExecutor) -> Callable[[], Graded]:
    """Begin with a notebook; what is returned waits for its results."""
    try:
        written = attempts(path)
    except Unreadable as error:
        unread = Graded(path, problem=str(error))
        return lambda: unread
    asked = [e for room in rooms() if any(id.startswith(f"{room}.") for id in written) for e in exercises(room)]
    strange = sorted(written.keys() - {exercise.id for exercise in asked})
    notes = tuple(f"{id} is no exercise of this version of the lab, and counts for nothing" for id in strange)
    if not asked:
        return lambda: Graded(path, problem="there is no exercise of the lab in it", notes=notes)
    results = pool.map(lambda exercise: _result(exercise, written.get(exercise.id), judges, seconds), asked)
    return lambda: Graded(path, tuple(results), notes=notes)


def _result(exercise: Exercise, attempt: Attempt | None, judges: "Judges", seconds: float) -> Result:
    flags: tuple[str, ...] = ()
    if attempt is None:
        verdict = Verdict("todo", "the notebook has no cell for it")
    elif attempt.problem:
        verdict = Verdict("error", attempt.problem, "error")
    else:
        verdict, flags = judges.verdict(exercise, attempt, seconds)
    return Result(exercise.id, verdict, exercise.difficulty, flags)


class Judges:
    """One seed's probes, and what the house's answers give on them, each computed once."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.alone = threading.RLock()  # to interpret a kernel, the whole process's interpreter is patched
        self.cases: dict[str, tuple[Probes, Answered]] = {}

    def case(self, exercise: Exercise) -> tuple[Probes, Answered]:
        """The hidden probes of an exercise, and the house's answers to them."""
        with self.alone:
            if exercise.id not in self.cases:
                probes = exercise.probes(self.seed)
                self.cases[exercise.id] = probes, functools.cache(answers(exercise, probes))
            return self.cases[exercise.id]

    def verdict(self, exercise: Exercise, attempt: Attempt, seconds: float) -> tuple[Verdict, tuple[str, ...]]:
        """Run an attempt on the hidden probes, in its own process, and compare in this one."""
        probes, _ = self.case(exercise)
        given = [[list(call.args), call.kwargs] for call in map(as_call, probes)]
        request = {"id": exercise.id, "source": attempt.source, "through": exercise.through is not None}
        outcomes, flags = elsewhere(encode(request | {"probes": given, "seconds": seconds}), seconds)
        return self.judge(exercise, outcomes), flags

    def judge(self, exercise: Exercise, outcomes: Sequence[Outcome]) -> Verdict:
        """Hold what came back, which may be any plain data, against the house's answers."""
        probes, answered = self.case(exercise)
        with self.alone:
            return judge(exercise, probes, outcomes[: len(probes)], answered)


def elsewhere(request: bytes, seconds: float) -> tuple[list[Outcome], tuple[str, ...]]:
    """What an attempt's process hands back in its time; the process and what it began are gone when this returns."""
    receive, send = _context().Pipe(duplex=False)
    process = _context().Process(target=worker.attempt, args=(send, request), daemon=True)  # type: ignore[attr-defined]
    process.start()
    send.close()
    late = threading.Event()

    def stop() -> None:
        late.set()
        _kill(process)

    alarm = threading.Timer(seconds + GRACE, stop)
    alarm.start()
    try:
        answer = decode(receive.recv_bytes(worker.LARGEST + 4096))
        return [_outcome(row) for row in answer["outcomes"]], tuple(map(str, answer["notes"]))
    except (EOFError, OSError, Garbled, KeyError, TypeError, ValueError):
        process.join(0 if late.is_set() else GRACE)
        if late.is_set():
            return [Outcome("timeout", message=f"not done after {seconds:g} s, and stopped from outside")], ()
        return [Outcome("error", error="SystemExit", message=_ended(process.exitcode))], ()
    finally:
        alarm.cancel()
        _kill(process)
        process.join()
        receive.close()


@functools.cache
def _context() -> BaseContext:
    """Processes that come from a clean server where that is possible, so that they hold nothing of ours."""
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([worker.__name__])
    return context


def _kill(process: BaseProcess) -> None:
    """End a process and those it may have started."""
    if hasattr(os, "killpg") and process.pid:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _ended(status: int | None) -> str:
    if status is not None and status < 0:
        return f"it ended its process ({signal.Signals(-status).name}) instead of returning"
    return f"it ended its process (exit {status}) instead of returning"


def _outcome(row: Any) -> Outcome:
    """An outcome from what the process sent, which may be anything. Raises TypeError or ValueError."""
    status, value, error, message, changed, started = row
    if status not in STATUSES or not all(isinstance(text, str) for text in (error, message)):
        raise ValueError(status)
    keys = tuple(key for key in changed if isinstance(key, int | str))
    return Outcome(status, value, error, message, keys, started is True)
