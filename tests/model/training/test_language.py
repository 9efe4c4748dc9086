"""What is said of captions' language, on captions made by hand."""

from __future__ import annotations

import pytest

from model.training.language import language

ENDING, TWICE, DISTINCT = "% ending in an article or a preposition", "% with a content word twice", "% distinct"


@pytest.mark.parametrize(
    ("caption", "unfinished"),
    [
        pytest.param("a man in a", True, id="article"),
        pytest.param("A boy jumps into the .", True, id="before a full stop"),
        pytest.param("two dogs run on", True, id="preposition"),
        pytest.param("a girl plays outside", False, id="an adverb too"),
        pytest.param("a man with a hat", False, id="noun"),
        pytest.param("", False, id="nothing"),
    ],
)
def test_half_finished_captions(caption: str, unfinished: bool) -> None:
    assert language([caption])[ENDING] == 100 * unfinished


@pytest.mark.parametrize(
    ("caption", "twice"),
    [
        pytest.param("a black dog is playing in a black dog", True, id="the sentence that a metric liked"),
        pytest.param("a dog and a Dog", True, id="in another case"),
        pytest.param("a man in a hat and a woman in the grass are in the sun", False, id="function words"),
        pytest.param("dogs chase a dog", False, id="another form"),
    ],
)
def test_content_words_said_twice(caption: str, twice: bool) -> None:
    assert language([caption])[TWICE] == 100 * twice


def test_variety_by_hand() -> None:
    found = language(["a dog runs", "A dog runs.", "two cats", "a dog on a"])
    assert found == {ENDING: 25, TWICE: 0, DISTINCT: 75, "words used": 6, "words a caption": 3}
