"""The process that runs a learner's code: it is handed inputs, hands back what came out, and holds no answers.

A fork server imports this once; every exercise of every notebook then has a process of its own in a few milliseconds.
"""

import contextlib
import functools
import importlib
import linecache
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from types import CodeType, FunctionType
from typing import Any

import einops  # noqa: F401 (so that no learner's answer waits for it)
import torch

import kernels
from labkit.course import Call, Todo, exercises, run
from labkit.course.running import Outcome

from .jail import close_doors, holds_answers
from .wire import decode, encode

LARGEST = 64 << 20  # bytes of an answer: a hundred times what any exercise returns
LONGEST = 500  # characters of a message
CELL = "<your cell>"

if kernels.WHERE != "nowhere":
    for part in ("watch", "tiles"):  # which a kernel exercise looks for when it is launched, and then finds no more
        importlib.import_module(f"labkit.kernel_lab.{part}")


def attempt(send: Connection, request: bytes) -> None:
    """Run one attempt and send {"outcomes": …, "notes": …}: what each probe gave, and what was tried and refused."""
    if hasattr(os, "setsid"):
        os.setsid()  # whatever it starts can be ended with it
    _be_quiet(send.fileno())
    torch.set_num_threads(1)
    asked = decode(request)
    through = _through(asked["id"]) if asked["through"] else _as_it_is
    notes: list[str] = []
    close_doors(functools.partial(_note, notes))
    outcomes = _outcomes(asked, through)
    answer = encode({"outcomes": [_told(outcome) for outcome in outcomes], "notes": notes})
    if len(answer) > LARGEST:
        large = Outcome("error", error="MemoryError", message=f"it returns {len(answer) / 2**20:,.0f} MB")
        answer = encode({"outcomes": [_told(large)], "notes": notes})
    send.send_bytes(answer)
    os._exit(0)  # threads that still run, and what they wait for, end here


def _outcomes(asked: dict[str, Any], through: Callable[[Callable], Callable]) -> list[Outcome]:
    probes = [Call(tuple(args), kwargs) for args, kwargs in asked["probes"]]
    name = asked["id"].partition(".")[2]
    defined = run(functools.partial(_define, asked["source"], name), [Call(())], asked["seconds"])
    if defined[0].status != "returned":
        return defined
    return run(through(_defined.pop()), probes, asked["seconds"])


_defined: list[Callable] = []


def _define(source: str, name: str) -> None:
    """Run the learner's statements, and keep the function that they define."""
    linecache.cache[CELL] = (len(source), None, source.splitlines(keepends=True), CELL)  # for tracebacks and Triton
    names: dict[str, Any] = {"__name__": "__main__", "Todo": Todo, "exercise": lambda id: _as_it_is}
    exec(compile(source, CELL, "exec"), names)
    _defined[:] = [names[name]]


def _as_it_is(fn: Callable) -> Callable:
    return fn


def _told(outcome: Outcome) -> list[Any]:
    """An outcome as plain data."""
    return [
        str(outcome.status), outcome.value, str(outcome.error)[:LONGEST], str(outcome.message)[:LONGEST],
        list(outcome.changed), bool(outcome.started),
    ]  # fmt: skip


def _note(notes: list[str], said: str) -> None:
    if said not in notes and len(notes) < 10:
        notes.append(said[:LONGEST])


def _be_quiet(kept: int) -> None:
    """Whatever is printed is lost, and no file stays open but that and the way back."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 (they stay open)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    if sys.platform != "win32":
        os.closerange(3, kept)
        os.closerange(kept + 1, 4096)


def _through(id: str) -> Callable[[Callable], Callable]:
    """How an answer is launched or watched. Answers and mechanism, among which it stands, are emptied first."""
    room = exercises(id.partition(".")[0])
    for exercise in room:
        for fn in (exercise.reference, *exercise.alternatives, *(mistake.fn for mistake in exercise.mistakes)):
            _empty(fn)
    for name in [name for name in sys.modules if holds_answers(name) and ".exercises" not in name]:
        for fn in _defined_in(name, vars(sys.modules[name])):
            _empty(fn)
    return next(exercise.answer for exercise in room if exercise.id == id)


def _defined_in(module: str, names: Mapping[str, Any]) -> Iterator[Any]:
    """The functions of a module, and of the classes in it."""
    for value in names.values():
        if isinstance(value, type) and value.__module__ == module:
            yield from _defined_in(module, vars(value))
        elif getattr(value, "__module__", None) == module:
            yield getattr(value, "__wrapped__", getattr(value, "__func__", value))


def _empty(fn: Any) -> None:
    """Take the code out of a function."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    with contextlib.suppress(AttributeError):
        fn.__code__ = _emptied(fn.__code__)


def _emptied(code: CodeType) -> CodeType:
    nothing = FunctionType((lambda: None).__code__, {}).__code__
    return code.replace(co_code=nothing.co_code, co_consts=(None,), co_names=(), co_linetable=nothing.co_linetable)
