"""A review page: captions beside their pictures, to be checked and corrected in a browser, without a server.

The data is JSON in a script element that is not executed; the page's own script adds it to the document as text. The
Content-Security-Policy allows this one script, pictures that are part of the page or lie on the reader's disk, and
style sheets beside the page, so no caption or file name can run code, and nothing is requested from any other host.

Many pictures would make the page too large to open. Then they are written next to it, some hundred per style sheet,
because browsers let a local page read no other kind of file; a style sheet is loaded when its captions are shown.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from beam_job.output.tables import LOW_CONFIDENCE
from beam_job.output.thumbnails import image_id
from beam_job.storage import public_name

MOST_CAPTIONS = 20_000  # a page with more opens slowly; it has some of them then
SHEET_HEADER = b"/* caption-images */"
GENERATOR = '<meta name="generator" content="caption-images">'
_EMBEDDED_BYTES = 4 * 2**20
_PICTURES_A_SHEET = 200
_SCRIPTS = ("summary.js", "edits.js", "cards.js", "main.js")


@dataclass(frozen=True)
class Card:
    """A caption to check.

    Attributes:
      id: identifies the image on the page and among the thumbnails (`image_id`).
      uri: of the image, without secrets.
      caption: the captioner's, without corrections.
      score: of the caption; None if there is none.
      object_version: of the image that was captioned; None if there is none.
      correctable: whether a correction can be assigned: `uri` is the whole URI.
      others: further captions of the image.
      low_confidence: whether the score is below --min_score.
      correction: a correction that the output has already: {"caption": text} or {"bad": true}.
    """

    id: str
    uri: str
    caption: str
    score: float | None
    object_version: str | None
    correctable: bool = True
    others: Sequence[str] = ()
    low_confidence: bool = False
    correction: Mapping[str, Any] | None = None

    @classmethod
    def of_row(cls, row: Mapping[str, Any], correction: Mapping[str, Any] | None = None) -> Card:
        """The card of a row of `captions/`."""
        uri, name = row["uri"], public_name(row["uri"])
        others = tuple(text for text in row.get("captions") or () if text != row["caption"])
        return cls(
            image_id(uri),
            name,
            row["caption"],
            row["score"],
            row["object_version"],
            name == uri,
            others,
            bool(row.get(LOW_CONFIDENCE)),
            correction,
        )

    def to_json(self) -> dict[str, Any]:
        """The card as the page's script reads it."""
        known = self.score is not None and math.isfinite(self.score)
        return {
            "id": self.id,
            "uri": self.uri,
            "caption": self.caption,
            "score": round(self.score, 3) if known and self.score is not None else None,
            "version": self.object_version,
            "correctable": self.correctable,
            "others": list(self.others),
            "low": self.low_confidence,
            "correction": self.correction,
        }


@dataclass(frozen=True)
class ReviewPage:
    """The content of a review page.

    Attributes:
      name: of the run or output; corrections are kept in the browser under this name.
      cards: the captions, in the order in which they are offered for review.
      captions: number of captions of the run or output; more than the `cards` if they are too many.
      failures: rows of the failures table, some or all.
      failed: number of all failures.
      summary: of a run, for the figures at the top.
    """

    name: str
    cards: Sequence[Card]
    captions: int
    failures: Sequence[Mapping[str, str]] = ()
    failed: int = 0
    summary: Mapping[str, Any] | None = field(default=None)

    def files(self, pictures: Mapping[str, bytes], folder: str) -> tuple[str, dict[str, bytes]]:
        """The page's text, and the files beside it by name.

        Args:
          pictures: JPEGs by `Card.id`; captions without one are shown without.
          folder: of the files beside the page, relative to it.
        """
        cards = [card.to_json() for card in self.cards]
        shown = [card for card in cards if card["id"] in pictures]
        sheets: dict[str, bytes] = {}
        if sum(len(pictures[card["id"]]) for card in shown) <= _EMBEDDED_BYTES:
            for card in shown:
                card["picture"] = base64.b64encode(pictures[card["id"]]).decode()
        else:
            for number, chosen in enumerate(_groups(shown)):
                sheets[f"{folder}/{number:05d}.css"] = _sheet(number, {c["id"]: pictures[c["id"]] for c in chosen})
                for card in chosen:
                    card["sheet"] = number
        data = {
            "name": self.name,
            "cards": cards,
            "captions": self.captions,
            "failures": list(self.failures),
            "failed": self.failed,
            "summary": self.summary,
            "sheets": folder,
        }
        return _document(data), sheets


def _groups(cards: Sequence[dict[str, Any]]) -> Iterator[Sequence[dict[str, Any]]]:
    for start in range(0, len(cards), _PICTURES_A_SHEET):
        yield cards[start : start + _PICTURES_A_SHEET]


def _sheet(number: int, pictures: Mapping[str, bytes]) -> bytes:
    """A style sheet whose custom properties are pictures in base64; the page's script reads them."""
    properties = "".join(f'--p{name}:"{base64.b64encode(jpeg).decode()}";\n' for name, jpeg in pictures.items())
    return SHEET_HEADER + f"\n#sheet-{number}{{\n{properties}}}\n".encode()


def _document(data: Mapping[str, Any]) -> str:
    script, style = "\n".join(map(_file, _SCRIPTS)), _file("page.css")
    parts = {
        "@POLICY@": f"default-src 'none'; img-src data: 'self' file:; script-src '{_checksum(script)}'; "
        f"style-src '{_checksum(style)}' 'self' file:; base-uri 'none'; form-action 'none'",
        "@GENERATOR@": GENERATOR,
        "@STYLE@": style,
        "@SCRIPT@": script,
        "@DATA@": _escaped(json.dumps(data, default=float, allow_nan=False)),
    }
    text = _file("page.html")
    for name, part in parts.items():
        before, after = text.split(name)
        text = before + part + after
    return text


def _file(name: str) -> str:
    return resources.files("beam_job.output.review").joinpath(name).read_text(encoding="utf-8")


def _checksum(content: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"


def _escaped(text: str) -> str:
    """JSON that cannot end its script element."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
