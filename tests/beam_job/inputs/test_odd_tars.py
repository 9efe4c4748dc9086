"""What people put into tars: links, appended archives, one name twice, devices; damaged and compressed tars."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest

from beam_job.inputs.listing import InputError, list_images
from beam_job.records import ImageInput
from tests.tars import images, members, names_in, read, reason, write_tar


def test_names_that_are_no_text(tmp_path: Path) -> None:
    [image] = images(members(write_tar(tmp_path / "x.tar", {os.fsdecode(b"caf\xe9.jpg"): b"e"})))
    assert image.uri.endswith("#caf\\xe9.jpg")
    assert read(image) == b"e"


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        pytest.param(lambda whole: whole[:1300], 1, id="cut in a header"),
        pytest.param(lambda whole: whole[:1024] + b"\xff" * 512 + whole[1536:], 1, id="second header overwritten"),
        pytest.param(lambda whole: b"no tar at all", 0, id="no tar"),
        pytest.param(lambda whole: b"", 0, id="empty"),
    ],
)
def test_a_damaged_tar_is_a_row_after_the_images_before_the_damage(damage, found: int, tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "x.tar", {"1.jpg": b"a" * 400, "2.jpg": b"b" * 400})
    whole.write_bytes(damage(whole.read_bytes()))
    *sound, last = images(members(whole))
    assert [read(image) for image in sound] == [b"a" * 400][:found]
    assert last.uri == str(whole)
    assert f"is damaged after {found} images" in reason(last, "list")


def test_a_tar_that_ends_within_an_image(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", {"1.jpg": b"a" * 400})
    tar.write_bytes(tar.read_bytes()[:700])
    image, last = images(members(tar))
    assert "received 188 bytes instead of 400" in reason(image)
    assert "is damaged after 1 images" in reason(last, "list")


def test_a_tar_that_may_have_been_cut_between_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tar = write_tar(tmp_path / "x.tar", {"1.jpg": b"a" * 400, "2.jpg": b"b" * 400})
    members(tar)
    assert "cut" not in caplog.text
    tar.write_bytes(tar.read_bytes()[:1024])
    assert [image.uri for image in images(members(tar))] == [f"{tar}#1.jpg"]
    assert f"{tar} has no end-of-archive marker, so it may be truncated" in caplog.text


def test_devices_are_rows(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("fifo.jpg", "fifo"):
            entry = tarfile.TarInfo(name)
            entry.type = tarfile.FIFOTYPE
            tar.addfile(entry)
    [image] = images(members(tmp_path / "x.tar"))
    assert reason(image, "list") == "fifo.jpg is a sparse file or a device, which cannot be read from a tar"


def test_a_compressed_tar_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"x\.tar\.gz is compressed.*unpack it"):
        list(list_images([str(tmp_path / "x.tar.gz")]))


def test_a_compressed_tar_named_tar(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(gzip.compress(bytes(1024)))
    [image] = images(members(tmp_path / "x.tar"))
    assert reason(image, "list") == (
        f"{tmp_path}/x.tar is compressed, so single images cannot be read from it; unpack it"
    )


@pytest.mark.parametrize("pattern", ["", "/*.tar.gz", "/**"])
def test_compressed_tars_in_a_folder_are_named(pattern: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.tar.gz", "b.tar.gz"):
        (tmp_path / name).write_bytes(b"")
    assert list(list_images([f"{tmp_path}{pattern}"])) == []
    assert f"2 unread files, such as {tmp_path}/a.tar.gz, which is compressed, so" in caplog.text
    assert "holds no images (only 2 unread files)" in caplog.text


@pytest.mark.parametrize("inner", ["inner.tar", "a/photos.ZIP"])
def test_archives_within_a_tar_are_named(inner: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tar(tmp_path / "x.tar", {"a.jpg": b"", inner: b"x"})
    assert len(images(members(tmp_path / "x.tar"))) == 1
    assert f"x.tar: archives in it are not read, such as {inner}; unpack it" in caplog.text


def write_entries(path: Path, *entries: tuple[str, bytes | str]) -> Path:
    """A tar of files, and of links: `->target` is symbolic, `=>target` is hard."""
    with tarfile.open(path, "w") as archive:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type = tarfile.SYMTYPE if content.startswith("->") else tarfile.LNKTYPE
                entry.linkname = content[2:]
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return path


def test_links_within_the_tar(tmp_path: Path) -> None:
    tar = write_entries(
        tmp_path / "x.tar",
        *[("a/1.jpg", b"one"), ("b/hard.jpg", "=>a/1.jpg"), ("b/soft.jpg", "->../a/1.jpg")],
        *[("chain.jpg", "->b/soft.jpg"), ("before.jpg", "->late.jpg"), ("late.jpg", b"late"), ("doc", "->a/1.jpg")],
        *[("gone.jpg", "->../../etc/passwd"), ("circle.jpg", "->circle.jpg"), ("folder", "->a")],
    )
    found = {image.uri.partition("#")[2]: image for image in images(members(tar))}
    assert {name: read(image) for name, image in found.items() if not image.list_error} == {
        **dict.fromkeys(("a/1.jpg", "b/hard.jpg", "b/soft.jpg", "chain.jpg", "doc"), b"one"),
        **dict.fromkeys(("late.jpg", "before.jpg"), b"late"),
    }
    broken = [name for name, image in found.items() if image.list_error]
    assert broken == ["gone.jpg", "circle.jpg"]
    assert "gone.jpg is a link to ../../etc/passwd, which is not an image in this tar" in reason(
        found["gone.jpg"], "list"
    )


def test_archives_that_were_appended(tmp_path: Path) -> None:
    parts = [write_tar(tmp_path / f"{name}.tar", {f"{name}.jpg": name.encode()}).read_bytes() for name in "abc"]
    whole = tmp_path / "whole.tar"
    whole.write_bytes(b"".join(parts))
    assert [read(image) for image in images(members(whole))] == [b"a", b"b", b"c"]
    whole.write_bytes(parts[0] + parts[1][:700])
    assert names_in(whole) == ["a.jpg", "b.jpg"]
    whole.write_bytes(parts[0] + b"something else")
    *_, last = images(members(whole))
    assert "is damaged after 1 images" in reason(last, "list")


def test_one_name_twice(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tar = write_entries(tmp_path / "x.tar", ("a.jpg", b"old"), ("b.jpg", b"b"), ("a.jpg", b"new"))
    assert {image.uri[-5:]: read(image) for image in images(members(tar))} == {"b.jpg": b"b", "a.jpg": b"new"}
    assert read(ImageInput(f"{tar}#a.jpg")) == b"new"
    assert f"{tar}: 1 names occur more than once; the last image of each name is captioned" in caplog.text


def test_leftovers_in_a_tar(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "x.tar", {"a.jpg": b"a", "._a.jpg": b"fork", "__MACOSX/a.jpg": b"fork"})
    assert names_in(tar) == ["a.jpg"]
