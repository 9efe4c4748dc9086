"""Files that are no images: the message says what they are, as far as their first bytes tell."""

from __future__ import annotations

import gzip

import pytest

from model import ImageError
from model.formats import format_of


@pytest.mark.parametrize(
    ("data", "what"),
    [
        pytest.param(b"\xff\x0a\xfa\x1f", "a JPEG XL file", id="jxl"),
        pytest.param(b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL file", id="jxl in a container"),
        pytest.param(b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 file", id="jp2"),
        pytest.param(b"\xff\x4f\xff\x51\0\x2f", "a JPEG 2000 file", id="j2k"),
        pytest.param(b"\xef\xbb\xbf\r\n<!DOCTYPE html><html>", "a web page or XML", id="web page"),
        pytest.param(b'<?xml version="1.0"?><Error>NoSuchKey</Error>', "a web page or XML", id="answer of S3"),
        pytest.param(b'<?xml version="1.0"?>\n<SVG width="1">', "an SVG drawing", id="svg"),
        pytest.param(b'{"error": "not found"}', "JSON text", id="json"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull", id="lfs"),
        pytest.param(gzip.compress(b"x"), "a compressed file; unpack it", id="gzip"),
        pytest.param(b"\0\0\0\x14ftypmp42\0\0\0\0isom", "a video", id="mp4"),
        pytest.param(b"/annex/objects/SHA256E-s9--a.jpg\n", "git annex get", id="git-annex"),
        pytest.param(b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "a raw photograph", id="cr3"),
        pytest.param(b"FUJIFILMCCD-RAW 0201", "a raw photograph", id="raf"),
        pytest.param(b"\0\0\1\0\1\0\x10\x10", "an icon", id="ico"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n", "an EPS drawing", id="eps"),
        pytest.param(b"ARROW1\0\0\xff\xff\xff\xff", "write its images to Parquet", id="arrow"),
        pytest.param(bytes(5000), "a file of zeros", id="zeros"),
        pytest.param("/photos/\u00e9.jpg\n".encode() * 90, r"a text file; a list .* the extension \.txt", id="list"),
        pytest.param(b"\x01hello", r"\(JPEG, PNG, WEBP, GIF, BMP, TIFF, AVIF, HEIC\)", id="unknown"),
    ],
)
def test_what_a_file_is_instead(data: bytes, what: str) -> None:
    with pytest.raises(ImageError, match=f"^not an image of a known format(, but)?.* {what}"):
        format_of(data)
