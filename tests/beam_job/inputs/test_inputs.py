"""What --input may name, and what is said where it names nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from beam_job.config import JobConfig
from beam_job.inputs.listing import InputError, list_images
from beam_job.inputs.rows import ListOptions
from beam_job.planning.recorded_config import request_of
from beam_job.storage import StorageError, storage_for
from tests.tars import write_tar


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, one of them deeper, and a file that is none."""
    root = tmp_path / "photos"
    (root / "sub").mkdir(parents=True)
    for name in ("b.JPG", "sub/a.png", "notes.md"):
        (root / name).write_bytes(b"x")
    return root


def uris(*inputs: object) -> list[str]:
    return [row["uri"] for row in rows(*inputs)]


def rows(*inputs: object) -> list[dict]:
    return [row for batch in list_images([str(given) for given in inputs]) for row in batch.to_pylist()]


def test_a_folder_is_searched_for_images(folder: Path) -> None:
    assert uris(folder) == [f"{folder}/b.JPG", f"{folder}/sub/a.png"]


def test_a_glob_is_taken_at_its_word(folder: Path) -> None:
    assert uris(folder / "*") == [f"{folder}/b.JPG", f"{folder}/notes.md"]
    assert uris(folder / "**" / "*.png") == [f"{folder}/sub/a.png"]


def test_a_name_with_brackets_is_a_name_where_there_is_such_a_file(folder: Path) -> None:
    (folder / "x[1].jpg").write_bytes(b"x")
    assert uris(folder / "x[1].jpg") == [f"{folder}/x[1].jpg"]


def test_one_image(folder: Path) -> None:
    assert uris(folder / "b.JPG") == [f"{folder}/b.JPG"]


def test_relative_paths_are_the_callers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert uris("sub") == uris("**/*.png") == uris("./sub/a.png") == [f"{folder}/sub/a.png"]


def test_file_scheme(folder: Path) -> None:
    assert uris(f"file://{folder}") == [f"{folder}/b.JPG", f"{folder}/sub/a.png"]


def test_listed_versions_are_size_and_mtime(folder: Path) -> None:
    [image, _] = rows(folder)
    assert image["object_version"] == f"1-{(folder / 'b.JPG').stat().st_mtime_ns}"
    assert image["size"] == 1


def test_a_list_keeps_uris_as_they_are_but_for_relative_names(tmp_path: Path) -> None:
    lines = ["gs://bucket/a b.jpg", "", "photos/x.jpg", "  ftp://odd/scheme.jpg  ", "gs://bucket/a b.jpg", "ümlaut.jpg"]
    (tmp_path / "uris.txt").write_bytes(("\ufeff" + "\r\n".join(lines)).encode("utf-8"))
    found = rows(tmp_path / "uris.txt")
    assert [image["uri"] for image in found] == [
        "gs://bucket/a b.jpg",
        str(Path.cwd() / "photos/x.jpg"),
        "ftp://odd/scheme.jpg",
        "gs://bucket/a b.jpg",
        str(Path.cwd() / "ümlaut.jpg"),
    ]
    assert {image["object_version"] for image in found} == {None}


def test_columns_can_be_carried_from_lists_alone(folder: Path) -> None:
    with pytest.raises(InputError, match="--carry_columns=label needs lists with columns"):
        list(list_images([str(folder)], ListOptions(carry_columns=("label",))))


def test_a_bucket(bucket) -> None:
    for name in ("photos/1.jpg", "photos/deep/2.jpg", "photos/readme.md", "other/3.jpg"):
        bucket.blob(name).upload_from_string(b"x")
    root = f"gs://{bucket.name}"
    assert uris(f"{root}/photos") == uris(f"{root}/photos/") == [f"{root}/photos/1.jpg", f"{root}/photos/deep/2.jpg"]
    assert uris(f"{root}/**/*.jpg") == [f"{root}/other/3.jpg", f"{root}/photos/1.jpg", f"{root}/photos/deep/2.jpg"]
    assert len(uris(root)) == 3
    [image] = rows(f"{root}/other/3.jpg")
    blob = bucket.get_blob("other/3.jpg")
    assert (image["object_version"], image["size"], image["crc32c"]) == (str(blob.generation), 1, blob.crc32c)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param("{folder}/nowhere", "nowhere does not exist", id="missing folder"),
        pytest.param("{folder}/nowhere.jpg", "nowhere.jpg does not exist", id="missing image"),
        pytest.param("{folder}/nowhere.txt", "nowhere.txt: No such file", id="missing list"),
        pytest.param("{folder}/*.webp", "nothing matches", id="glob without a match"),
        pytest.param("{folder}/[2024]/*.jpg", r"nothing matches .*write \[\[\] for a \[", id="glob with brackets"),
        pytest.param("{folder}/{{x,y}}.jpg", "x.jpg does not exist", id="missing image of braces"),
        pytest.param("{folder}/wide.txt", "cannot be read as text: .*truncated", id="list cut within UTF-16"),
        pytest.param("ftp://host/x.jpg", "unknown scheme ftp://", id="unknown scheme"),
    ],
)
def test_what_is_not_there(given: str, message: str, folder: Path) -> None:
    (folder / "wide.txt").write_bytes("a.jpg\n".encode("utf-16")[:-1])
    with pytest.raises(InputError, match=message):
        list(list_images([given.format(folder=folder)]))


def test_one_empty_input_among_others_is_an_error(folder: Path) -> None:
    with pytest.raises(InputError, match="nothing matches"):
        uris(folder, folder / "*.webp")


def test_no_such_bucket(gcs_emulator: str) -> None:
    with pytest.raises(InputError, match="gs://no-such-bucket/photos"):
        list(list_images(["gs://no-such-bucket/photos/"]))


@pytest.mark.parametrize("name", ["l.csv", "l.jsonl", "lists", "0.tar", "date=1/l.csv"])
def test_columns_that_the_output_has_are_carried_under_another_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    (tmp_path / "date=1").mkdir()
    for path in ("l.csv", "lists/a.csv", "date=1/l.csv"):
        (tmp_path / path).write_text("uri,caption,size\n/a,old,7\n,none,8\n")
    (tmp_path / "l.jsonl").write_text('{"uri": "/a", "caption": "old", "size": "7"}\n{"caption": "none"}\n')
    write_tar(tmp_path / "0.tar", {"a.jpg": b"x", "a.json": b'{"caption": "old", "size": "7"}', "b.jpg": b"y"})
    carried = ["alt_text=caption", "bytes=size", "again=caption", *(["day=date"] if "date" in name else [])]
    options = ListOptions(carry_columns=tuple(carried))
    found = [row for batch in list_images([str(tmp_path / name)], options) for row in batch.to_pylist()]
    assert [(row["alt_text"], row["bytes"], row["again"]) for row in found] == [("old", "7", "old"), (None,) * 3]
    assert found[0].get("day") == ("1" if "date" in name else None)


def test_a_name_of_the_outputs_own_is_refused_with_the_way_out(folder: Path) -> None:
    with pytest.raises(
        InputError, match=r"^--carry_columns: caption is a column .* --carry_columns=list_caption=caption$"
    ):
        list(list_images([str(folder)], ListOptions(carry_columns=("caption",))))


def test_a_relative_input_belongs_to_the_folder_where_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted run is resumed only by the same request."""
    requests = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        requests += [request_of(JobConfig((given,), "out")) for given in ("photos", "./photos/", f"{tmp_path}/l.txt")]
    assert requests[0] == requests[1]
    assert requests[0]["inputs"] == [f"{tmp_path}/a/photos"]
    assert requests[3]["inputs"] == [f"{tmp_path}/b/photos"]
    assert requests[2] != requests[5]


def test_a_working_directory_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(StorageError, match="the working directory was removed, so give an absolute path"):
        storage_for("out/a").write("out/a", b"")
