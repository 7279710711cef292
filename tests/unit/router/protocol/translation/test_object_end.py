from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sun_sglang.router.protocol.translation.object_end import ObjectEnd

TEXTS = st.text(alphabet='a"\\{}[] é', max_size=6)
OBJECTS = st.dictionaries(
    TEXTS, st.recursive(TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3))
)


@settings(max_examples=40, deadline=None)
@given(value=OBJECTS, more=TEXTS)
def test_end_of_an_object_is_found_at_its_last_character_in_pieces_of_any_size(value: Any, more: str) -> None:
    text = orjson.dumps(value).decode()
    end = ObjectEnd()
    for position, character in enumerate(text):
        assert not end.found, text[:position]
        end.feed(character)
    assert end.found
    whole = ObjectEnd()
    whole.feed(text + more)
    assert whole.found
    whole = ObjectEnd()
    whole.feed(text[:-1])
    assert not whole.found


@pytest.mark.parametrize("text", ["", "3", "null", '"{}"', '{"a": "}', "{", '{"a": "\\'])
def test_text_without_a_whole_object_has_no_end(text: str) -> None:
    end = ObjectEnd()
    end.feed(text)
    assert not end.found
