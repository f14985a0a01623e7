"""The made-up room in tests/rooms, on which the course engine is tried, and short ways to try an answer on it."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import labkit
from labkit.course import Verdict, find
from labkit.course.attempts import verdict_on

ROOMS = str(Path(__file__).parent / "rooms")


@pytest.fixture
def toy_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The made-up room among labkit's, an empty work folder, and nobody's attempts."""
    monkeypatch.setenv("LABKIT_WORK", str(tmp_path))
    monkeypatch.setattr(labkit, "__path__", [*labkit.__path__, ROOMS])
    for module, name in [("attempts", "_attempts"), ("attempts", "_hints_seen"), ("guesses", "_guesses")]:
        monkeypatch.setattr(f"labkit.course.{module}.{name}", {})
    yield
    for name in [name for name in sys.modules if name.startswith("labkit.toy")]:
        del sys.modules[name]
    vars(labkit).pop("toy", None)


def step_answer(state: Tensor, k: Tensor, v: Tensor, beta: float) -> Tensor:
    """A right answer to toy.step."""
    return state + beta * torch.outer(k, v - state.T @ k)


def verdict(fn: Callable[..., Any], id: str = "toy.step", **limits: float) -> Verdict:
    """What the course says to `fn`."""
    return verdict_on(find(id), fn, **limits)


def renamed(fn: Callable[..., Any], name: str) -> Callable[..., Any]:
    """`fn` under the name that an exercise asks for."""
    fn.__name__ = name
    return fn
