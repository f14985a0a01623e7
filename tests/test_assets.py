"""Assets: fetched once, verified, kept; what was made from them too; the list of what there is."""

import re
import shutil
import statistics
import tarfile
import time
from pathlib import Path

import pytest
from asset_shop import TEXT, refused
from asset_shop import shop_fixture as shop_fixture
from filelock import FileLock

from labkit import assets


def test_the_first_call_fetches_and_the_second_needs_no_network(shop, capsys):
    shop.offer()
    file = assets.path("tiny")
    assert file.read_bytes() == TEXT
    assert capsys.readouterr().out == "labkit: tiny: fetching 0.0 MB, once\n"
    shutil.rmtree(shop.wheels)
    assert assets.path("tiny") == file and shop.fetches() == 1
    assert shop.left() == [file.name], "the wheel is gone, and so is the folder it was unpacked in"
    assert capsys.readouterr().out == ""


def test_a_cached_asset_is_found_in_five_milliseconds(shop):
    shop.stock()
    seconds = []
    for _ in range(21):
        begin = time.perf_counter()
        assets.path("tiny")
        seconds.append(time.perf_counter() - begin)
    assert statistics.median(seconds) < 0.005


def test_several_are_fetched_in_one_call_and_only_what_is_missing(shop):
    for name in ("tiny", "third"):
        shop.offer(name)
    shop.stock("other")
    assert set(assets.fetch(["tiny", "other"])) == {"tiny", "other"} and shop.fetches() == 1
    assert list(assets.fetch()) == assets.names() and shop.fetches() == 2
    assert assets.fetch([]) == {}


def test_a_pattern_joins_all_that_match_in_sorted_order(shop):
    shop.offer(files={"tiny/b.md": b"B", "tiny/a.md": b"A", "tiny/C.md": b"C"}, member="tiny/*.md")
    assert assets.path("tiny").read_bytes() == b"C\nA\nB"
    assert assets.path("tiny").suffix == ".md"


def test_a_pattern_that_leaves_the_ending_open_makes_a_file_that_any_system_can_name(shop):
    shop.offer(files={"tiny/a.param": b"P", "tiny/a.bin": b"B"}, member="tiny/a.*")
    assert assets.path("tiny").read_bytes() == b"B\nP"
    assert assets.path("tiny").suffix == ".bin"


def test_nothing_that_was_fetched_is_run(shop, tmp_path):
    mark = tmp_path / "ran"
    trap = f"open({str(mark)!r}, 'w')\n".encode()
    shop.offer(files={"tiny/__init__.py": trap})
    assert assets.path("tiny").read_bytes() == trap
    wheel = shop.offer("source")
    wheel.unlink()
    (tmp_path / "setup.py").write_bytes(trap)
    with tarfile.open(shop.wheels / "source-1.0.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "setup.py", "source-1.0/setup.py")
    refused(lambda: assets.path("source"), "could not be fetched")
    assert not mark.exists()


def test_a_cached_file_that_was_cut_short_is_fetched_again(shop):
    shop.stock().write_bytes(TEXT[:-1])
    assert not assets.is_cached("tiny")
    assert assets.path("tiny").read_bytes() == TEXT and shop.fetches() == 1


def test_verify_finds_a_changed_byte_and_removes_what_came_from_it(shop):
    shop.stock("tiny")
    shop.stock("other")
    shop.offer("third")
    assets.derived("tiny", "v1.bin", lambda out: out.write_bytes(b"1"))
    kept = assets.derived("other", "v1.bin", lambda out: out.write_bytes(b"1"))
    assets.path("tiny").write_bytes(TEXT[:-1] + b"!")
    assert assets.verify() == {"tiny": "damaged", "other": "whole", "third": "absent"}
    assert shop.left() == sorted([assets.path("other").name, kept.name])
    assert assets.path("tiny").read_bytes() == TEXT
    assert assets.verify()["tiny"] == "whole"


def test_two_processes_at_once_fetch_one_time(shop):
    shop.offer()
    file = assets._file(assets.entry("tiny"))
    shop.cache.mkdir()
    with FileLock(f"{file}.lock"):  # hold both back until both have found the cache empty
        children = [shop.child("print(assets.path('tiny').read_bytes() and 'got it')") for _ in range(2)]
        assert all("waiting for another process" in child.stdout.readline() for child in children)
    said = [child.communicate(timeout=60)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0] and all("got it" in text for text in said)
    assert sum("fetching" in text for text in said) == 1 and shop.fetches() == 1
    assert file.read_bytes() == TEXT and shop.left() == [file.name]


def test_a_derived_file_is_made_once_for_each_label_and_content(shop):
    made = []

    def make(out: Path) -> None:
        out.write_bytes(b"converted")
        made.append(out.stat().st_ino)

    shop.stock()
    first = assets.derived("tiny", "v1.bin", make)
    assert first == assets.derived("tiny", "v1.bin", make) and first.read_bytes() == b"converted" and len(made) == 1
    assert first.parent == shop.cache and first.stat().st_ino == made[0], "it was moved into place, not copied"
    assert assets.derived("tiny", "v2.bin", make) != first and len(made) == 2
    shop.table.write_text("")
    shop.offer(files={"tiny/text.txt": TEXT + b"!"})
    assert assets.derived("tiny", "v1.bin", make) != first and len(made) == 3


def test_a_conversion_that_fails_leaves_nothing(shop):
    def fail(out: Path) -> None:
        out.write_bytes(b"half")
        raise ValueError("no such tensor")

    file = shop.stock()
    with pytest.raises(ValueError, match="no such tensor"):
        assets.derived("tiny", "v1.bin", fail)
    refused(lambda: assets.derived("tiny", "v1.bin", lambda out: None), "v1.bin", "without writing")
    refused(lambda: assets.derived("tiny", "../v1.bin", fail), "label", "'../v1.bin'")
    assert shop.left() == [file.name]


def test_a_list_of_assets_that_is_missing_or_wrong_is_said(shop, monkeypatch):
    shop.table.write_text("[tiny]\npackage = 'tiny'\n")
    refused(assets.names, str(shop.table), "[tiny]", "wheel_sha256")
    monkeypatch.setattr(assets, "TABLE", shop.table.with_name("absent.toml"))
    refused(assets.names, "absent.toml", "pip install -e .")


def test_every_asset_of_the_lab_is_fully_described():
    assert {"smollm2", "shakespeare", "countries", "kjv"} <= set(assets.names())
    for e in map(assets.entry, assets.names()):
        assert re.fullmatch("[a-z][a-z0-9_]*", e.name)
        assert e.wheel.startswith(f"{e.package.replace('-', '_')}-{e.version}-") and e.wheel.endswith(".whl")
        assert all(re.fullmatch("[0-9a-f]{64}", h) for h in (e.sha256, e.wheel_sha256)) and e.sha256 != e.wheel_sha256
        assert e.size > 0 and e.wheel_size > 0 and Path(e.member).suffix
        assert e.licence and len(e.citation) > 10 and e.note
    assert "://" not in assets.TABLE.read_text(encoding="utf-8"), "pip knows where packages are; the list names no host"


def test_whatever_made_a_file_everyone_who_shares_the_cache_can_read_it(shop):
    def for_me_alone(out):
        out.write_bytes(b"converted")
        out.chmod(0o600)

    shop.stock("tiny")
    assert assets.derived("tiny", "v1.bin", for_me_alone).stat().st_mode & 0o444 == 0o444
