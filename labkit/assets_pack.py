"""All assets in one file, for machines without a network: `pack` writes it from a cache, `unpack` fills a cache.

The file is a plain zip whose members are named as the assets are, and a manifest. It is not trusted: what goes into the
cache is what data/assets.toml of this checkout lists, name, size and sha256.
"""

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from . import assets, assets_wheel
from .assets import AssetError, Entry

MANIFEST = "manifest.json"
FORMAT = 1  # of the archive
ON_UNIX = 0o100644 << 16  # a regular file that all may read


def pack(archive: Path, names: Iterable[str] | None = None) -> Path:
    """Write these assets (by default: all) into one new file; fetches what is missing, checks every sha256.

    Raises AssetError; FileExistsError where `archive` is there, FileNotFoundError where its folder is not.
    """
    archive = Path(archive)
    _free(archive)
    entries = [assets.entry(name) for name in dict.fromkeys(assets.names() if names is None else names)]
    if not entries:
        raise AssetError(f"names: expected at least one of {', '.join(assets.names())}, got none")
    files = assets.fetch(e.name for e in entries)
    with tempfile.TemporaryDirectory(dir=archive.parent, prefix=f"{archive.name}.partial-") as folder:
        half = Path(folder, archive.name)
        with zipfile.ZipFile(half, "x") as z, assets.progress() as start:
            z.writestr(_member(MANIFEST), json.dumps(_manifest(entries), indent=1, ensure_ascii=False))
            for e in entries:
                _pack_one(z, e, files[e.name], start(f"{e.name}: packing {e.size / 1e6:.1f} MB", e.size))
        with half.open("rb+") as f:
            os.fsync(f.fileno())
        _free(archive)
        os.replace(half, archive)
    print(f"labkit: {_of(entries)} in {archive}: elsewhere, run `labkit assets unpack {archive.name}`")
    return archive


def unpack(archive: Path) -> dict[str, Literal["unpacked", "was here"]]:
    """Put the assets of a packed file into this machine's cache; what is there already stays. Raises AssetError."""
    archive = Path(archive)
    entries = _checked(archive)
    done: dict[str, Literal["unpacked", "was here"]] = {}
    with assets.progress() as start:
        for e in entries:
            done[e.name] = "unpacked" if _unpack_one(e, archive, start) else "was here"
    new = [e for e in entries if done[e.name] == "unpacked"]
    print(f"labkit: unpacked {_of(new)}; {len(entries) - len(new)} of the archive's were here already")
    if missing := [name for name in assets.names() if not assets.is_cached(name)]:
        print(f"labkit: not in {archive.name} and not here: {', '.join(missing)}")
    return done


def _pack_one(z: zipfile.ZipFile, e: Entry, file: Path, tick: Callable[[int], None]) -> None:
    digest, size = hashlib.sha256(), 0
    with file.open("rb") as source, z.open(_member(e.name), "w", force_zip64=True) as out:
        while piece := source.read(assets_wheel.CHUNK):
            digest.update(piece)
            out.write(piece)
            tick(size := size + len(piece))
    if digest.hexdigest() != e.sha256:
        raise AssetError(
            f"{e.name} in the cache is damaged: run `labkit assets verify`, which removes it, and pack again"
        )


def _unpack_one(e: Entry, archive: Path, start: Callable[[str, int], Callable[[int], None]]) -> bool:
    def make(out: Path) -> None:
        tick = start(f"{e.name}: unpacking {e.size / 1e6:.1f} MB", e.size)
        try:  # the archive is read as a wheel is: never past the declared size, hashed on the way
            assets_wheel.unpack(replace(e, wheel=archive.name, member=e.name), archive, out)
        except AssetError as error:
            raise AssetError(f"{error}: copy {archive.name} anew from where it was packed, or pack it again") from error
        tick(e.size)

    return assets.bring(e, make)


def _checked(archive: Path) -> list[Entry]:
    """The assets that an archive holds, when it is one of ours, of this checkout, and holds nothing else."""
    try:
        with zipfile.ZipFile(archive) as z:
            members = z.infolist()
            names = [member.filename for member in members]
            if MANIFEST not in names or z.getinfo(MANIFEST).file_size > assets_wheel.CHUNK:
                raise AssetError(f"{archive} was not written by `labkit assets pack`: it has no manifest")
            packed = _read(z.read(MANIFEST), archive)
    except (zipfile.BadZipFile, EOFError) as error:
        raise AssetError(f"{archive} is not a whole archive ({error}): copy it anew, or pack it again") from error
    except OSError as error:
        raise AssetError(
            f"{archive} cannot be read ({error.strerror}): name the file that `labkit assets pack` wrote"
        ) from error
    for name, row in packed.items():
        if name not in assets.names():
            raise AssetError(f"{archive} holds {name!r}, which this checkout of labkit does not know: {_SAME_VERSION}")
        if (row.get("size"), row.get("sha256")) != (assets.entry(name).size, assets.entry(name).sha256):
            raise AssetError(f"{archive} holds another version of {name} than this checkout wants: {_SAME_VERSION}")
    sizes = {name: assets.entry(name).size for name in packed}
    for member in members:
        if member.filename not in [MANIFEST, *sizes] or names.count(member.filename) > 1:
            raise AssetError(f"{archive} holds {member.filename!r}, which no asset needs: {_REFUSED}")
        if (member.external_attr, member.compress_type, member.flag_bits & 1) != (ON_UNIX, zipfile.ZIP_STORED, 0):
            raise AssetError(f"{archive} holds {member.filename!r} as a link, compressed or encrypted: {_REFUSED}")
        if member.file_size != sizes.get(member.filename, member.file_size):
            raise AssetError(f"{archive} holds {member.filename!r} in another size than its manifest says: {_REFUSED}")
    if absent := [name for name in packed if name not in names]:
        raise AssetError(f"{archive} lacks {', '.join(absent)}, which its manifest names: {_REFUSED}")
    return [assets.entry(name) for name in packed]


_SAME_VERSION = "pack and unpack with the same version of labkit; nothing was unpacked"
_REFUSED = "it was altered after `labkit assets pack` wrote it; nothing was unpacked"


def _read(manifest: bytes, archive: Path) -> dict[str, dict[str, Any]]:
    try:
        found = json.loads(manifest)
        if found["format"] == FORMAT and all(isinstance(row, dict) for row in found["assets"].values()):
            return found["assets"]
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise AssetError(f"{archive} has a manifest that this checkout of labkit cannot read: {_SAME_VERSION}")


def _manifest(entries: list[Entry]) -> dict[str, Any]:
    about = ("size", "sha256", "licence", "citation", "note", "package", "version")
    return {"format": FORMAT, "assets": {e.name: {key: getattr(e, key) for key in about} for e in entries}}


def _member(name: str) -> zipfile.ZipInfo:
    """The same date for all: the same assets give the same archive, byte for byte."""
    member = zipfile.ZipInfo(name)
    member.create_system, member.external_attr = 3, ON_UNIX
    return member


def _free(archive: Path) -> None:
    if os.path.lexists(archive):
        raise FileExistsError(f"{archive} is there already: name another file, or remove it first")
    if not archive.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {archive.parent}: make it first, or name another file")


def _of(entries: list[Entry]) -> str:
    return f"{len(entries)} assets, {sum(e.size for e in entries) / 1e6:.1f} MB"
