"""`labkit lab`: JupyterLab on the learner's own copies of the lessons, with the settings that ship in the repo."""

import json
import os
import shutil
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LESSONS = ROOT / "notebooks"


def lab(args: list[str]) -> None:
    """Copy the lessons, make sure that what they need is here, and serve JupyterLab until it is stopped."""
    if not LESSONS.is_dir():
        raise FileNotFoundError(f"no lessons in {LESSONS}: install labkit from its repository with `pip install -e .`")
    work = work_folder()
    for note in copy_lessons(work):
        print(note)

    from labkit import assets

    assets.fetch(assets.names())
    # A fresh folder for sockets: short, private to this user, and gone afterwards.
    with tempfile.TemporaryDirectory(prefix="labkit-", ignore_cleanup_errors=True) as runtime:
        os.environ.update(environment(work, runtime))
        from jupyterlab.labapp import main

        main([f"--ServerApp.root_dir={work}", *args])


def work_folder() -> Path:
    """Where the learner's copies and progress live: LABKIT_WORK, else work/ in the repository."""
    return Path(os.environ.get("LABKIT_WORK") or ROOT / "work").resolve()


def environment(work: Path, runtime: str) -> dict[str, str]:
    """What JupyterLab reads at its start; what it writes (theme, layout) stays in the work folder."""
    config = [str(ROOT / "jupyter_config"), os.environ.get("JUPYTER_CONFIG_PATH")]
    return {
        "OMP_WAIT_POLICY": "PASSIVE",  # idle threads sleep, so that two open lessons do not spin each other to a crawl
        "LABKIT_WORK": str(work),
        "JUPYTER_CONFIG_PATH": os.pathsep.join(folder for folder in config if folder),
        "JUPYTER_CONFIG_DIR": str(work / ".jupyter" / "config"),
        "JUPYTER_DATA_DIR": str(work / ".jupyter" / "data"),
        "JUPYTER_RUNTIME_DIR": runtime,
    }


def copy_lessons(work: Path) -> list[str]:
    """Give the learner every lesson they lack and return what to tell them; a file of theirs is never written to."""
    work.mkdir(parents=True, exist_ok=True)
    notes = []
    for lesson in sorted(LESSONS.glob("*.ipynb")):
        theirs, version = work / lesson.name, _version(lesson)
        beside = work / f"{lesson.stem}.{version[:8]}.ipynb"
        if not theirs.exists():
            _copy(lesson, theirs)
        elif _version(theirs) != version and not beside.exists():
            _copy(lesson, beside)
            notes.append(
                f"{lesson.name} has changed since you copied it: yours is as it was, the new one is {beside.name}"
            )
    return notes


def _version(notebook: Path) -> str:
    """The hash of the source that a notebook was built from; JupyterLab keeps it when the learner saves."""
    try:
        return json.loads(notebook.read_text(encoding="utf8"))["metadata"]["labkit"]["source_sha256"]
    except (ValueError, KeyError):
        return "unknown"


def _copy(lesson: Path, to: Path) -> None:
    half = to.with_suffix(".part")  # an interrupted copy must not pass for the learner's file
    shutil.copyfile(lesson, half)
    os.replace(half, to)
