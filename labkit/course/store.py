"""The learner's progress: progress.json in the work folder. Two notebooks may write at once; no file stops a lesson."""

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from labkit.launch import work_folder

from .show import say

SECTIONS = ("exercises", "guesses")
PATIENCE = 10  # seconds to wait for another notebook that is writing
Progress = dict[str, dict[str, Any]]


def read() -> Progress:
    """What was recorded: the status of each exercise and each guess, by id."""
    path = work_folder() / "progress.json"
    try:
        found = json.loads(path.read_text(encoding="utf8"))
        if not isinstance(found, dict) or not all(isinstance(found.get(section), dict) for section in SECTIONS):
            raise ValueError("not progress")
        return found
    except FileNotFoundError:
        return {section: {} for section in SECTIONS}
    except ValueError:  # not JSON, not UTF-8, or not ours
        aside = _set_aside(path)
        say("note", f"{path.name} could not be read: it is kept as {aside.name}, and progress starts anew")
        return {section: {} for section in SECTIONS}


def record(section: str, id: str, value: Any) -> None:
    """Write one thing down. When that fails the learner is told, and goes on."""
    _change(lambda progress: progress[section].update({id: value}))


def record_status(id: str, status: str) -> None:
    """Write down how an exercise stands; what was solved once stays solved."""
    _change(lambda progress: progress["exercises"].update({id: _better(progress["exercises"].get(id), status)}))


def _better(before: Any, now: str) -> str:
    return "pass" if before == "pass" else now


def _change(change: Callable[[Progress], None]) -> None:
    path = work_folder() / "progress.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(".progress.lock"), timeout=PATIENCE):
            progress = read()
            change(progress)
            _replace(path, json.dumps(progress, indent=1, sort_keys=True) + "\n")
    except OSError as error:  # a full or read-only disk, or a lock that nobody gives back
        say("note", f"progress was not saved in {path}: {error.strerror or error}")


def _replace(path: Path, text: str) -> None:
    """The old file or the new one, never half of one."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".progress-", suffix=".json")
    try:
        with os.fdopen(handle, "w", encoding="utf8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _set_aside(path: Path) -> Path:
    number = 1
    while (aside := path.with_name(f"{path.stem}.unreadable-{number}.json")).exists():
        number += 1
    os.replace(path, aside)
    return aside
