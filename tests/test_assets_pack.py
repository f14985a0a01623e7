"""Assets in one file: what is packed is what the cache must hold, and nothing else gets in."""

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from asset_shop import TEXT, refused, sha256
from asset_shop import shop_fixture as shop_fixture

from labkit import assets, assets_pack, assets_wheel


@pytest.fixture
def archive(shop, tmp_path) -> Path:
    """An archive of two assets, and a cache that has none of them."""
    shop.stock("tiny")
    shop.stock("other")
    archive = assets_pack.pack(tmp_path / "class.zip")
    shutil.rmtree(shop.cache)
    return archive


def rewrite(archive: Path, change: Callable[[dict[zipfile.ZipInfo, bytes]], None]) -> None:
    """Write the archive anew, with what `change` did to its members."""
    with zipfile.ZipFile(archive) as z:
        members = {member: z.read(member) for member in z.infolist()}
    change(members)
    with zipfile.ZipFile(archive, "w") as z:
        for member, data in members.items():
            z.writestr(member, data)


def named(name: str, mode: int = 0o100644) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    return member


def test_what_one_machine_packs_another_has_without_a_network(shop, archive, monkeypatch, capsys):
    monkeypatch.setenv("LABKIT_OFFLINE", "1")
    capsys.readouterr()
    assert assets_pack.unpack(archive) == {"tiny": "unpacked", "other": "unpacked"}
    assert "2 assets, 0.2 MB" in capsys.readouterr().out
    assert assets.path("tiny").read_bytes() == TEXT and set(assets.verify().values()) == {"whole"}
    assert len(shop.left()) == 2 and shop.fetches() == 0


def test_packing_fetches_what_is_missing_and_packs_only_what_was_asked_for(shop, tmp_path):
    for name in ("tiny", "other"):
        shop.offer(name)
    with zipfile.ZipFile(assets_pack.pack(tmp_path / "one.zip", ["tiny", "tiny"])) as z:
        assert z.namelist() == ["manifest.json", "tiny"]
        assert json.loads(z.read("manifest.json"))["assets"]["tiny"]["licence"] == "free"
    assert shop.fetches() == 1


def test_the_same_assets_give_the_same_archive(shop, archive, tmp_path):
    assets_pack.unpack(archive)
    assert assets_pack.pack(tmp_path / "again.zip").read_bytes() == archive.read_bytes()


def test_an_archive_that_is_there_is_not_written_over(shop, archive):
    before = archive.read_bytes()
    with pytest.raises(FileExistsError, match=r"class\.zip is there already"):
        assets_pack.pack(archive)
    assert archive.read_bytes() == before and not shop.cache.exists(), "refused before any work"
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        assets_pack.pack(archive.parent / "nowhere" / "class.zip")
    refused(lambda: assets_pack.pack(archive.with_name("b.zip"), ["tinny"]), "'tinny'", "tiny, other")
    refused(lambda: assets_pack.pack(archive.with_name("b.zip"), []), "expected at least one", "tiny, other")


def test_a_damaged_file_of_the_cache_is_not_packed(shop, tmp_path):
    shop.stock().write_bytes(TEXT[:-1] + b"!")
    refused(lambda: assets_pack.pack(tmp_path / "class.zip"), "tiny in the cache is damaged", "labkit assets verify")
    assert list(tmp_path.glob("class.zip*")) == []


def test_interrupted_packing_leaves_nothing(shop, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    shop.stock()
    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        assets_pack.pack(tmp_path / "class.zip")
    assert list(tmp_path.glob("class.zip*")) == []


def test_a_class_may_read_what_its_teacher_packed(archive):
    ours = archive.with_name("mine")
    ours.touch()
    assert archive.stat().st_mode == ours.stat().st_mode


def test_what_is_there_already_stays(shop, archive, capsys):
    file = shop.cache / Path(assets._file(assets.entry("tiny"))).name
    shop.cache.mkdir()
    file.write_bytes(TEXT)
    inode = file.stat().st_ino
    assert assets_pack.unpack(archive) == {"tiny": "was here", "other": "unpacked"}
    assert file.stat().st_ino == inode
    assert "1 of the archive's were here already" in capsys.readouterr().out


def test_what_the_archive_lacks_is_said(shop, archive, capsys):
    shop.offer("third")
    assets_pack.unpack(archive)
    assert "not in class.zip and not here: third" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (named("../tiny"), "'../tiny'"),
        (named("/tiny"), "'/tiny'"),
        (named("more"), "'more'"),
        (named("tiny/"), "'tiny/'"),
    ],
    ids=lambda value: value.filename if isinstance(value, zipfile.ZipInfo) else "",
)
def test_a_member_that_is_no_asset_refuses_the_whole_archive(shop, archive, member, says):
    rewrite(archive, lambda members: members.update({member: b"trap"}))
    refused(lambda: assets_pack.unpack(archive), says, "altered", "nothing was unpacked")
    assert not shop.cache.exists()


def test_a_link_or_a_compressed_member_or_a_second_of_a_name_is_refused(shop, archive):
    whole = archive.read_bytes()

    def member(members, name):
        return next(m for m in members if m.filename == name)

    def link(members):
        member(members, "tiny").external_attr = 0o120777 << 16

    def compress(members):
        member(members, "tiny").compress_type = zipfile.ZIP_DEFLATED

    def twice(members):
        members[named("tiny")] = TEXT

    def shorter(members):
        members[member(members, "tiny")] = TEXT[:-1]

    def lacks(members):
        del members[member(members, "tiny")]

    says = {link: "a link", compress: "compressed", twice: "'tiny'", shorter: "another size", lacks: "lacks tiny"}
    for change, words in says.items():
        archive.write_bytes(whole)
        if change is twice:
            with pytest.warns(UserWarning, match="Duplicate name"):
                rewrite(archive, change)
        else:
            rewrite(archive, change)
        refused(lambda: assets_pack.unpack(archive), words, "nothing was unpacked")
    assert not shop.cache.exists()


def test_altered_content_of_the_right_size_does_not_enter_the_cache(shop, archive):
    rewrite(archive, lambda m: m.update({next(k for k in m if k.filename == "tiny"): TEXT[:-1] + b"!"}))
    refused(lambda: assets_pack.unpack(archive), sha256(TEXT), "nothing was kept", "copy class.zip anew")
    assert shop.left() == [] and not assets.is_cached("tiny")


def test_another_version_is_refused_by_name(shop, archive):
    shop.table.write_text("")
    shop.offer("other")
    refused(lambda: assets_pack.unpack(archive), "'tiny'", "does not know", "same version of labkit")
    shop.offer("tiny", files={"tiny/text.txt": TEXT + b"!"})
    refused(lambda: assets_pack.unpack(archive), "another version of tiny", "same version of labkit")
    assert not shop.cache.exists()


@pytest.mark.parametrize(
    "manifest", [b"[]", b"{", b'{"format": 2, "assets": {}}', b'{"format": 1, "assets": {"a": 1}}']
)
def test_a_manifest_that_is_not_ours_is_refused(shop, archive, manifest):
    rewrite(archive, lambda m: m.update({next(k for k in m if k.filename == "manifest.json"): manifest}))
    refused(lambda: assets_pack.unpack(archive), "manifest", "nothing was unpacked")


def test_what_is_no_archive_of_ours_or_half_of_one_is_refused(shop, archive, tmp_path):
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    refused(lambda: assets_pack.unpack(archive), "not a whole archive", "copy it anew")
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as z:
        z.writestr("beach.jpg", b"")
    refused(lambda: assets_pack.unpack(tmp_path / "photos.zip"), "not written by `labkit assets pack`")
    refused(lambda: assets_pack.unpack(tmp_path / "absent.zip"), "absent.zip cannot be read", "name the file")
    assert not shop.cache.exists()


def test_interrupted_unpacking_keeps_whole_files_and_no_other(shop, archive, monkeypatch):
    pieces = assets_wheel._pieces

    def interrupted(z, members):
        if members == ["other"]:
            yield b"half"
            raise KeyboardInterrupt
        yield from pieces(z, members)

    monkeypatch.setattr(assets_wheel, "_pieces", interrupted)
    with pytest.raises(KeyboardInterrupt):
        assets_pack.unpack(archive)
    assert shop.left() == [assets.path("tiny").name] and assets.verify() == {"tiny": "whole", "other": "absent"}
