"""Folders and globs of many lists: partitions, what Spark writes beside them, lists that lack a column."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_job.inputs.listing import InputError
from beam_job.inputs.rows import ListedFailure
from tests.listed import fill, names, rows


def parts(folder: Path) -> None:
    for day, uri in (("2024-05-06", "/a.jpg"), ("2024-05-07", "/b.jpg"), ("__HIVE_DEFAULT_PARTITION__", "/c.jpg")):
        (folder / f"date={day}").mkdir(parents=True)
        pq.write_table(pa.table({"uri": [uri], "n": [1]}), folder / f"date={day}" / "part-0.parquet")
    fill(folder, "_SUCCESS", "date=2024-05-06/.part-0.parquet.crc", "date=2024-05-06/_committed_7")


@pytest.mark.parametrize("given", ["{}", "{}/", "{}/**/*.parquet", "{}/*/part-*.parquet", "{}/date=*/*.parquet"])
def test_hive_partitions(given: str, folder: Path) -> None:
    parts(folder)
    found = rows(given.format(folder), carry_columns=("date", "n"))
    assert [(row["uri"], row["date"], row["n"]) for row in found] == [
        *[("/a.jpg", "2024-05-06", 1), ("/b.jpg", "2024-05-07", 1), ("/c.jpg", None, 1)]
    ]


@pytest.mark.parametrize("given", ["{}", "{}/**", "{}/**/*.parquet"])
def test_what_spark_and_delta_lake_write_beside_lists(given: str, folder: Path, caplog) -> None:
    parts(folder)
    for name in ("_delta_log", "_temporary/0", "_year=2024"):
        (folder / name).mkdir(parents=True)
        pq.write_table(pa.table({"uri": [f"/{name}.jpg"]}), folder / name / "0.parquet")
    fill(folder, ".x.crc", "_delta_log/0.json")
    found = {row["uri"] for row in rows(given.format(folder))}
    assert found == {"/a.jpg", "/b.jpg", "/c.jpg", "/_year=2024.jpg"}


def test_a_pattern_may_ask_for_them(folder: Path) -> None:
    parts(folder / "_kept")
    assert len(rows(f"{folder}/_k*/**/*.parquet")) == len(rows(f"{folder}/_kept")) == 3
    fill(folder, "photos/_a", "photos/.b")
    assert names(folder, f"{folder}/photos/*") == ["photos/.b", "photos/_a"]


def test_one_of_several_lists_lacks_the_column(folder: Path) -> None:
    for name, text in (("0", "url\n/0.jpg\n"), ("1", "uri\n/1.jpg\n"), ("2", "uri;n\n/2.jpg;1\n")):
        fill(folder, f"{name}.csv")
        (folder / f"{name}.csv").write_text(text)
    read, first, last = rows(f"{folder}/*.csv")
    assert read["uri"] == "/1.jpg"
    assert (first["uri"], last["uri"]) == (f"{folder}/0.csv", f"{folder}/2.csv")
    assert "has no column uri" in first["list_error"]
    assert "add --delimiter=';'" in last["list_error"]
    (folder / "1.csv").unlink()
    with pytest.raises(InputError, match=r"0\.csv has no column uri; --uri_column must name one of url"):
        rows(f"{folder}/*.csv")


def test_a_carried_column_that_some_lists_lack_is_null(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(folder, "0.jsonl")
    (folder / "0.jsonl").write_text('{"uri": "/0.jpg"}\n')
    (folder / "1.jsonl").write_text('{"uri": "/1.jpg", "n": 1}\n')
    found = rows(f"{folder}/*.jsonl", carry_columns=("n",))
    assert [(row["uri"], row["n"], row["list_error"]) for row in found] == [("/1.jpg", 1, None), ("/0.jpg", None, None)]
    assert f"{folder}/0.jsonl has no column n; " in caplog.text
    with pytest.raises(InputError, match="has no column m"):
        rows(f"{folder}/*.jsonl", carry_columns=("m",))


def test_a_folder_that_spark_named_like_a_file(tmp_path: Path) -> None:
    parts(tmp_path / "out.parquet")
    assert len(rows(tmp_path / "out.parquet")) == 3


KINDS = ["{}.csv", "{}.csv.gz", "{}.csv.zst", "{}.tsv", "{}.txt", "{}.jsonl", "{}.parquet"]


def write_lists(folder: Path, name: str) -> None:
    for number in (1, 2):
        path = folder / name.format(number)
        text = {".t": f"/{number}.jpg\n", ".j": f'{{"uri": "/{number}.jpg"}}\n'}
        data = text.get(name[2:4], f"uri\n/{number}.jpg\n").encode()
        if name == "{}.tsv":
            data = f"n\turi\n1\t/{number}.jpg\n".encode()
        if name == "{}.parquet":
            pq.write_table(pa.table({"uri": [f"/{number}.jpg"]}), path)
        else:
            packed = {"gz": gzip.compress(data), "st": pa.compress(data, "zstd", asbytes=True)}
            path.write_bytes(packed.get(name[-2:], data))


def found_in_each_way(root: str, name: str) -> list[list[str]]:
    return [[row["uri"] for row in rows(f"{root}{end}")] for end in ("", f"/*{name[2:]}", f"/**/*{name[2:]}")]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_list_in_folders_and_globs(name: str, folder: Path) -> None:
    write_lists(folder, name)
    assert found_in_each_way(str(folder), name) == [["/1.jpg", "/2.jpg"]] * 3


def test_every_kind_of_list_in_a_bucket(folder: Path, bucket) -> None:
    for number, name in enumerate(KINDS):
        write_lists(folder, name)
        for file in (folder / name.format(1), folder / name.format(2)):
            bucket.blob(f"{number}/{file.name}").upload_from_filename(str(file))
        assert found_in_each_way(f"gs://{bucket.name}/{number}", name) == [["/1.jpg", "/2.jpg"]] * 3


def test_a_folder_of_images_and_lists_says_what_it_takes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(folder, "a.jpg", "a.txt", "b.jpg", "b.txt", "metadata.csv")
    with caplog.at_level(logging.INFO):
        assert names(folder, folder) == ["a.jpg", "b.jpg"]
    assert f"1 list next to them not read, such as {folder}/metadata.csv" in caplog.text


def test_one_list_of_several_that_is_damaged(folder: Path) -> None:
    fill(folder, "b.parquet")
    pq.write_table(pa.table({"uri": ["/a.jpg"], "n": [1]}), folder / "a.parquet")
    pq.write_table(pa.table({"uri": ["/c.jpg"], "n": [2]}), folder / "c.parquet")
    found = rows(folder, carry_columns=("n",))
    assert [(row["uri"], row["n"]) for row in found] == [("/a.jpg", 1), (f"{folder}/b.parquet", None), ("/c.jpg", 2)]
    assert "cannot be read as Parquet" in ListedFailure.from_json(found[1]["list_error"]).message
