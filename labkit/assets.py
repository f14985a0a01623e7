"""Real models and data: `path("smollm2")` is the verified local file. The only room of the lab that fetches anything.

data/assets.toml lists what there is. A file enters the cache whole and verified, or not at all; a process that finds
another one at it waits. Where there is no network the error says what to run elsewhere and where to put the result.
"""

import hashlib
import os
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from platformdirs import user_cache_dir

from .assets_wheel import AssetError, Entry, download, unpack

__all__ = [
    "AssetError",
    "Entry",
    "bring",
    "cache_dir",
    "derived",
    "entry",
    "fetch",
    "is_cached",
    "names",
    "path",
    "progress",
    "verify",
]

TABLE = Path(__file__).resolve().parent.parent / "data" / "assets.toml"  # beside the package, in the repository


def names() -> list[str]:
    """The assets that there are."""
    return list(_entries(TABLE))


def entry(name: str) -> Entry:
    """What is known of an asset: where it comes from, sizes, hashes, licence, citation."""
    if name not in _entries(TABLE):
        raise AssetError(f"there is no asset {name!r}: expected one of {', '.join(names())}")
    return _entries(TABLE)[name]


def cache_dir() -> Path:
    """Where verified files are kept: the folder in the environment variable LABKIT_CACHE, else the user's cache."""
    return Path(os.environ.get("LABKIT_CACHE") or user_cache_dir("labkit", appauthor=False)).expanduser().absolute()


def is_cached(name: str) -> bool:
    """Whether `path(name)` needs no fetching: the file is there and has the right size (`verify` reads all of it)."""
    return _has(_file(entry(name)), entry(name).size)


def path(name: str) -> Path:
    """The verified local file of an asset; fetched on the first call. Raises AssetError."""
    return _file(entry(name)) if is_cached(name) else fetch([name])[name]


def fetch(names: Iterable[str] | None = None) -> dict[str, Path]:
    """Fetch those of these assets (by default: of all) that are not cached, showing progress. Raises AssetError."""
    if isinstance(names, str):
        names = [names]
    wanted = [entry(name) for name in (_entries(TABLE) if names is None else names)]
    missing = [e for e in wanted if not is_cached(e.name)]
    if missing:
        with progress() as start:
            for e in missing:
                _obtain(e, start)
    return {e.name: _file(e) for e in wanted}


def verify() -> dict[str, Literal["whole", "absent", "damaged"]]:
    """Hash every cached file again. A damaged one is removed, with what was derived from it, to be fetched anew."""
    return {name: _verify(entry(name)) for name in names()}


def derived(name: str, label: str, make: Callable[[Path], None]) -> Path:
    """A file made once from an asset and kept beside it: `make(out)` writes it, the label ends its name.

    The label says the format and its version ("float32-v1.safetensors"): another label, or other content of the asset,
    is another file.
    """
    if not label or Path(label).name != label:
        raise AssetError(f"label: expected the end of a file name, such as 'float32-v1.safetensors', got {label!r}")
    path(name)
    target = cache_dir() / f"{_stem(entry(name))}.{label}"
    if not _has(target):
        with _alone_with(target) as folder:
            if not _has(target):
                made = folder / target.name
                make(made)
                if not made.is_file():
                    raise AssetError(f"{name}: make(out) for {label!r} ended without writing the file `out`")
                _keep(made, target)
    return target


@cache
def _entries(table: Path) -> dict[str, Entry]:
    entries = {}
    try:
        for name, row in tomllib.loads(table.read_text(encoding="utf-8")).items():
            entries[name] = Entry(name=name, **{**row, "pip": tuple(row.get("pip", ()))})
    except FileNotFoundError:
        raise AssetError(
            f"the list of assets {table} is missing: install labkit from its repository with `pip install -e .`"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise AssetError(f"the list of assets {table} cannot be read: {error}") from error
    except (TypeError, AttributeError) as error:
        raise AssetError(f"[{name}] in the list of assets {table} is not right: {error}") from error
    return entries


def _stem(e: Entry) -> str:
    return f"{e.name}-{e.sha256[:12]}"


def _file(e: Entry) -> Path:
    ending = Path(e.member).suffix
    return cache_dir() / (_stem(e) + (ending if ending[1:].isalnum() else ".bin"))  # a pattern's "*" names no file


def _has(file: Path, size: int | None = None) -> bool:
    with _cache_in_reach():
        return file.is_file() and size in (None, file.stat().st_size)


def _verify(e: Entry) -> Literal["whole", "absent", "damaged"]:
    file = _file(e)
    if not _has(file):
        return "absent"
    with _cache_in_reach():
        with file.open("rb") as f:
            if hashlib.file_digest(f, "sha256").hexdigest() == e.sha256:
                return "whole"
        for spoilt in file.parent.glob(f"{_stem(e)}.*"):
            if spoilt.is_file() and spoilt.suffix != ".lock":
                spoilt.unlink()
    return "damaged"


def bring(e: Entry, make: Callable[[Path], None]) -> bool:
    """Put an asset into the cache whole: `make(out)` writes and checks it, in a folder of its own.

    Returns False, and calls nothing, where it is there already. For those who know of a source; others call `path`.
    """
    target = _file(e)
    with _alone_with(target) as folder:
        if _has(target, e.size):  # the process that we waited for got it
            return False
        with _cache_in_reach():
            make(folder / target.name)
        _keep(folder / target.name, target)
    return True


def _obtain(e: Entry, start: Callable[[str, int], Callable[[int], None]]) -> None:
    def make(out: Path) -> None:
        tick = start(f"{e.name}: fetching {e.wheel_size / 1e6:.1f} MB, once", e.wheel_size)
        download(e, out.parent, cache_dir() / "wheels", tick)
        tick(e.wheel_size)
        unpack(e, out.parent / e.wheel, out)

    bring(e, make)


@contextmanager
def _alone_with(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, which one process has at a time and which is gone afterwards."""
    lock = FileLock(target.with_name(f"{target.name}.lock"))
    with _cache_in_reach():
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"labkit: waiting for another process that is making {target.name}", flush=True)
            lock.acquire()
    try:
        with _cache_in_reach():
            for left in target.parent.glob(f"{target.name}.partial-*"):  # by a process that was killed
                shutil.rmtree(left)
            folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f"{target.name}.partial-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        lock.release()


def _keep(made: Path, target: Path) -> None:
    """Move a finished file into place in one step, once its bytes are on the disk."""
    with _cache_in_reach():
        with made.open("rb+") as f:
            os.fsync(f.fileno())
        made.chmod(0o644)  # a cache may be shared, and safetensors writes for its owner alone
        os.replace(made, target)


@contextmanager
def _cache_in_reach() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AssetError(
            f"the cache folder {cache_dir()} cannot be used ({error.strerror}): "
            "set the environment variable LABKIT_CACHE to a folder that you can write to"
        ) from error


@contextmanager
def progress() -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """Gives start(text, total) -> tick(done): a bar on a terminal, a line for each asset anywhere else."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn  # only where needed

    terminal = sys.stdout.isatty()
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, disable=not terminal) as bar:

        def start(text: str, total: int) -> Callable[[int], None]:
            if not terminal:
                print(f"labkit: {text}", flush=True)
            task = bar.add_task(text, total=total)
            return lambda done: bar.update(task, completed=done)

        yield start
