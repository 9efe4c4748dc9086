"""Names with braces and brackets, which may be patterns, and names that are nearly there."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from beam_job.inputs.listing import InputError
from beam_job.storage import StorageError, storage_for
from tests.listed import fill, names


def test_braces(folder: Path) -> None:
    fill(folder, *(f"{number:02}.jpg" for number in range(12)), "a.png", "b.png", "{a,b}.png", "x[1].jpg")
    assert names(folder, folder / "{08..11}.jpg") == ["08.jpg", "09.jpg", "10.jpg", "11.jpg"]
    assert names(folder, folder / "{a,b}.png") == ["{a,b}.png"]
    (folder / "{a,b}.png").unlink()
    assert names(folder, folder / "{a,b}.png") == ["a.png", "b.png"]
    assert names(folder, folder / "{a*,0?}.{png,webp}") == ["a.png"]
    assert names(folder, folder / "x[1].jpg") == ["x[1].jpg"]
    with pytest.raises(InputError, match=r"12\.jpg does not exist"):
        names(folder, folder / "{11..12}.jpg")


def test_braces_in_a_bucket(bucket) -> None:
    root = f"gs://{bucket.name}"
    for name in ("00.jpg", "01.jpg", "a.png", "{a,b}.png", "x[1].jpg", "x1.jpg"):
        bucket.blob(name).upload_from_string(b"x")
    assert names(Path("/"), f"{root}/{{00..01}}.jpg") == [f"{root}/00.jpg", f"{root}/01.jpg"]
    assert names(Path("/"), f"{root}/{{a,b}}.png") == [f"{root}/{{a,b}}.png"]
    assert names(Path("/"), f"{root}/x[1].jpg") == [f"{root}/x[1].jpg"]


def test_a_folder_with_brackets_is_itself(folder: Path) -> None:
    fill(folder, "[2024]/a.jpg", "2/b.jpg")
    assert names(folder, folder / "[2024]" / "*.jpg") == ["[2024]/a.jpg"]
    assert names(folder, folder / "*" / "[ab].jpg") == ["2/b.jpg", "[2024]/a.jpg"]


@pytest.mark.parametrize(
    ("name", "asked", "how"),
    [
        ("caf\u00e9.jpg", "cafe\u0301.jpg", "its Unicode form"),
        ("\u00fc/a.jpg", "u\u0308/a.jpg", "its Unicode form"),
        ("IMG_1.JPG", "img_1.jpg", "letter case"),
    ],
)
def test_a_name_that_is_nearly_there(name: str, asked: str, how: str, folder: Path) -> None:
    fill(folder, name)
    assert name == unicodedata.normalize("NFC", name)
    with pytest.raises(StorageError, match=f"which differs only in {how}") as caught:
        storage_for(str(folder)).read(str(folder / asked))
    assert name.split("/")[0] in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "hint"),
    [
        pytest.param("a%20b.jpg", "there is {}/a b.jpg, the same name without %-escapes", id="URL"),
        pytest.param("sub\\c.jpg", "there is {}/sub/c.jpg, the same name with slashes", id="Windows"),
        pytest.param("dangling.jpg", "{}/dangling.jpg is a symbolic link to gone.jpg, which does not exist", id="link"),
        pytest.param("linked/c.jpg", "{}/linked is a symbolic link to gone, which does not exist", id="linked folder"),
        pytest.param("..%2Fsecret.jpg", "No such file or directory$", id="outside"),
    ],
)
def test_other_hints(asked: str, hint: str, folder: Path) -> None:
    fill(folder, "a b.jpg", "sub/c.jpg")
    (folder.parent / "secret.jpg").touch()
    (folder / "dangling.jpg").symlink_to("gone.jpg")
    (folder / "linked").symlink_to("gone")
    with pytest.raises(StorageError, match=hint.format(folder)):
        storage_for(str(folder)).read(str(folder / asked))
