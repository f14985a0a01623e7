"""`make lab` and `labkit lab`: what is installed when, and that a learner's file stays theirs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from labkit import launch


@pytest.fixture
def lessons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(launch, "LESSONS", folder)
    return folder


def write(path: Path, version: str, text: str = "") -> None:
    path.write_text(json.dumps({"cells": [text], "metadata": {"labkit": {"source_sha256": version}}}))


def test_a_learner_gets_every_lesson_once_and_keeps_what_they_did(lessons: Path, tmp_path: Path):
    write(lessons / "00_start_here.ipynb", "a" * 64)
    assert launch.copy_lessons(tmp_path / "work") == []
    mine = tmp_path / "work" / "00_start_here.ipynb"
    write(mine, "a" * 64, "my answer")
    assert launch.copy_lessons(tmp_path / "work") == []
    assert "my answer" in mine.read_text()
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["00_start_here.ipynb"]


def test_a_lesson_that_changed_comes_beside_theirs_and_is_said_once(lessons: Path, tmp_path: Path):
    work = tmp_path / "work"
    write(lessons / "00_start_here.ipynb", "a" * 64)
    launch.copy_lessons(work)
    write(work / "00_start_here.ipynb", "a" * 64, "my answer")
    write(lessons / "00_start_here.ipynb", "b" * 64, "new text")
    (note,) = launch.copy_lessons(work)
    assert "00_start_here.bbbbbbbb.ipynb" in note
    assert "my answer" in (work / "00_start_here.ipynb").read_text()
    assert "new text" in (work / "00_start_here.bbbbbbbb.ipynb").read_text()
    write(work / "00_start_here.bbbbbbbb.ipynb", "b" * 64, "my second answer")
    assert launch.copy_lessons(work) == []
    assert "my second answer" in (work / "00_start_here.bbbbbbbb.ipynb").read_text()


def test_a_file_of_theirs_that_is_no_notebook_is_left_as_it_is(lessons: Path, tmp_path: Path):
    write(lessons / "00_start_here.ipynb", "a" * 64)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "00_start_here.ipynb").write_text("half of a noteb")
    launch.copy_lessons(tmp_path / "work")
    assert (tmp_path / "work" / "00_start_here.ipynb").read_text() == "half of a noteb"


def test_jupyterlab_writes_only_into_the_work_folder(tmp_path: Path):
    written = launch.environment(tmp_path, "short")
    assert {key for key, value in written.items() if value.startswith(str(tmp_path))} == {
        "LABKIT_WORK",
        "JUPYTER_CONFIG_DIR",
        "JUPYTER_DATA_DIR",
    }


def test_an_unknown_exercise_is_one_sentence_and_no_traceback():
    said = subprocess.run([sys.executable, "-m", "labkit", "hint", "nothing.at_all"], capture_output=True, text=True)
    assert said.returncode == 1
    assert said.stderr.startswith("labkit: ") and said.stderr.count("\n") == 1 and not said.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The Makefile and pyproject.toml with a `python` in .venv that only notes what it is asked to do."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(launch.ROOT / name, tmp_path / name)
    python = tmp_path / ".venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\necho "$@" >> asked\n')
    python.chmod(0o755)
    return tmp_path


def asked(clone: Path, *arguments: str) -> list[str]:
    """What one `make` asks of the environment's Python."""
    (clone / "asked").write_text("")
    subprocess.run(["make", f"PYTHON={sys.executable}", *arguments], cwd=clone, check=True, capture_output=True)
    return (clone / "asked").read_text().splitlines()


def test_a_second_make_lab_installs_nothing_and_so_needs_no_network(clone: Path):
    assert asked(clone, "lab") == ["-m pip install --no-compile -e .", "-m labkit lab"]
    assert asked(clone, "lab", "ARGS=--no-browser --port 8899") == ["-m labkit lab --no-browser --port 8899"]


def test_make_lab_installs_again_when_a_version_changed(clone: Path):
    asked(clone, "lab")
    (clone / "pyproject.toml").touch()
    assert asked(clone, "lab") == ["-m labkit lab"]  # a checkout changes times, not versions
    with (clone / "pyproject.toml").open("a") as file:
        file.write("# another pin\n")
    assert asked(clone, "lab") == ["-m pip install --no-compile -e .", "-m labkit lab"]


def test_what_make_test_installed_serves_make_lab(clone: Path):
    assert asked(clone, "build")[0] == "-m pip install --no-compile -e .[test]"
    assert asked(clone, "lab") == ["-m labkit lab"]


def test_without_a_python_that_fits_make_says_which_are_wanted(clone: Path):
    shutil.rmtree(clone / ".venv")
    refused = subprocess.run(["make", "lab", "PYTHONS=no-such-python"], cwd=clone, capture_output=True, text=True)
    assert refused.returncode != 0
    assert "labkit needs Python 3.11, 3.12 or 3.13 and found none among: no-such-python." in refused.stderr
