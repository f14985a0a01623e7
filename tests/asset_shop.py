"""What the tests of assets share: tiny wheels in a folder that stands in for the network, a list of assets, a cache."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from labkit import assets

TEXT = b"To be, or not to be, that is the question:\n" * 2000


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Shop:
    def __init__(self, root: Path) -> None:
        self.wheels, self.cache, self.table, self.log = (root / n for n in ("shop", "cache", "assets.toml", "pip.log"))
        self.wheels.mkdir()
        self.table.touch()

    def offer(self, name: str = "tiny", files: dict[str, bytes] | None = None, member: str = "", **recorded) -> Path:
        """Put a wheel of these files on the shelf and into the list; `recorded` overrules what the list says."""
        files = files or {f"{name}/text.txt": TEXT}
        wheel = self.wheels / f"{name}-1.0-py3-none-any.whl"
        about = {
            "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Python: >=99\n",
            "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as z:
            for file, data in [*files.items(), *((f"{name}-1.0.dist-info/{f}", text) for f, text in about.items())]:
                z.writestr(file, data)
        self.record(name, wheel, member or next(iter(files)), b"\n".join(files[f] for f in sorted(files)), **recorded)
        return wheel

    def record(self, name: str, wheel: Path, member: str, data: bytes, **recorded) -> None:
        row = {
            "package": name,
            "version": "1.0",
            "wheel": wheel.name,
            "wheel_size": wheel.stat().st_size,
            "wheel_sha256": sha256(wheel.read_bytes()),
            "member": member,
            "size": len(data),
            "sha256": sha256(data),
            "licence": "free",
            "citation": "nobody",
        }
        with self.table.open("a") as f:
            f.writelines(
                [f"[{name}]\n", *(f"{key} = {json.dumps(value)}\n" for key, value in (row | recorded).items())]
            )
        assets._entries.cache_clear()

    def stock(self, name: str = "tiny") -> Path:
        """Offer an asset and put it into the cache by hand, for tests that are not about fetching."""
        self.offer(name)
        file = assets._file(assets.entry(name))
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(TEXT)
        return file

    def fetches(self) -> int:
        """How often pip has saved a wheel, by its own log."""
        return self.log.read_text().count("Saved ") if self.log.exists() else 0

    def left(self) -> list[str]:
        """What lies in the cache, but for locks."""
        return sorted(f.name for f in self.cache.glob("*") if f.suffix != ".lock")

    def child(self, code: str) -> subprocess.Popen:
        """Another process that sees the same list and the same cache."""
        prepare = "import sys, pathlib; from labkit import assets; assets.TABLE = pathlib.Path(sys.argv[1])\n"
        return subprocess.Popen(
            [sys.executable, "-c", prepare + code, str(self.table)], stdout=subprocess.PIPE, text=True
        )


@pytest.fixture(name="shop")
def shop_fixture(tmp_path, monkeypatch) -> Shop:
    shop = Shop(tmp_path)
    monkeypatch.setattr(assets, "TABLE", shop.table)
    monkeypatch.delenv("LABKIT_OFFLINE", raising=False)
    for key, value in {
        "LABKIT_CACHE": shop.cache,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": shop.wheels,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_LOG": shop.log,
    }.items():
        monkeypatch.setenv(key, str(value))
    return shop


def refused(act, *says: str) -> str:
    """The one line of the AssetError that this ends in, which says all of `says`."""
    with pytest.raises(assets.AssetError) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    assert [part for part in says if part not in message] == [], message
    return message
