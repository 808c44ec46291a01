"""Plain words: no phrase of docs/words.toml is in the documents, and no room of the product gets more."""

import pytest

from tests.support import words

pytestmark = pytest.mark.unit


def test_no_document_has_a_banned_phrase() -> None:
    assert [str(found) for found in words.in_documents()] == []


@pytest.mark.parametrize("room", words.rooms())
def test_no_room_has_more_banned_phrases_than_its_ceiling(room: str) -> None:
    found = [str(one) for one in words.in_product()[room]]
    assert len(found) <= words.CEILINGS.get(room, 0), "\n".join(found)


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("A worker that\ndies is replaced.", None),
        ("All is well; who dies is replaced.", "; who dies"),
        ("Who reads this? Everybody.", None),
        ("The part in\nhand is repeated.", "in hand"),
        ("It says who acknowledged the finding.", None),
        ("| who arrives | a guest |", "| who arrives"),
        ("Give the keys to who asks.", "to who asks"),
    ],
)
def test_a_phrase_is_found_over_line_breaks(text: str, phrase: str | None) -> None:
    assert [found for found, _ in words.phrases(text)] == ([phrase] if phrase else [])
