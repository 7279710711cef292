from __future__ import annotations

import re
from typing import Annotated

import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator

from sun_sglang.strict import Strict, YamlError, first_invalid, parse_yaml


class Leaf(Strict):
    size: int = Field(ge=1)
    secret: str = ""

    @field_validator("secret")
    @classmethod
    def _long(cls, secret: str) -> str:
        if secret and len(secret) < 8:
            raise ValueError("it is too short")
        return secret


class Document(Strict):
    leaf: Leaf | None = None
    named: dict[Annotated[str, Field(max_length=5)], Leaf] = Field(default_factory=dict)
    listed: tuple[Leaf, ...] = ()


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"leaf": {}}, "leaf.size: is required"),
        ({"leaf": {"size": 0}}, "leaf.size: Input should be greater than or equal to 1"),
        ({"leaf": {"size": 1, "sise": 2}}, "leaf.sise: unknown key; known keys: `size`, `secret`"),
        ({"named": {"a": {"size": 1, "b": 2}}}, "named.a.b: unknown key; known keys: `size`, `secret`"),
        ({"listed": [{"size": 1}, {"b": 1}]}, "listed.1.size: is required"),
        ({"listed": [{"size": 1, "b": 1}]}, "listed.0.b: unknown key; known keys: `size`, `secret`"),
        ({"named": {"too long": {}}}, "named.too long: String should have at most 5 characters"),
        ({"leaves": {}}, "leaves: unknown key; known keys: `more`, `leaf`, `named`, `listed`"),
        ({"leaf": {"size": 1, "secret": "word"}}, "leaf.secret: it is too short"),
        ([], "the root: Input should be a valid dictionary or instance of Document"),
    ],
)
def test_first_invalid_of_each_kind_of_error_has_path_problem_and_fix(raw: object, expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Document.model_validate(raw)

    assert first_invalid(caught.value, Document, extra_keys=("more",)).describe("the root") == expected


def test_first_invalid_without_show_value_hides_the_value() -> None:
    with pytest.raises(ValidationError) as caught:
        Document.model_validate({"leaf": {"size": 1, "secret": "word"}})

    assert "word" not in first_invalid(caught.value, Document).describe()
    assert first_invalid(caught.value, Document, show_value=True).problem == "it is too short (got 'word')"


def test_first_invalid_under_a_value_without_model_lists_no_keys() -> None:
    class Outer(Strict):
        inner: int | dict[str, int] = 0

    class Wrapper(BaseModel):
        outer: Outer

    with pytest.raises(ValidationError) as caught:
        Wrapper.model_validate({"outer": {"other": 1}})

    field = first_invalid(caught.value, Outer)
    assert (field.where, field.problem, field.fix) == ("outer.other", "unknown key", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: [", "sun.yaml:2: not valid YAML: "),
        ("a: 1\na: 2", "sun.yaml:2: not valid YAML: key `a` is given twice"),
        ("[a]: 1", "sun.yaml:1: not valid YAML: a key is not a name"),
        ("a: 2026-02-30", "sun.yaml:1: not valid YAML: a value is not a valid `timestamp`; put it in quotes"),
        ("[" * 2000, "sun.yaml: not valid YAML: it is nested too deeply"),
    ],
)
def test_parse_yaml_of_each_defect_has_line_and_problem(text: str, expected: str) -> None:
    with pytest.raises(YamlError) as caught:
        parse_yaml(text)

    assert caught.value.describe("sun.yaml").startswith(expected)


def test_merge_keys_put_another_mapping_in_and_own_keys_win() -> None:
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\nouter: {c: {<<: [*b, {z: 9, x: 7}], w: 0}}\n"
    found = parse_yaml(text)
    assert found["b"] == {"x": 1, "y": 3}
    assert found["outer"]["c"] == {"x": 1, "y": 3, "z": 9, "w": 0}


def test_merge_before_the_merged_mapping_was_read_is_no_repeated_key() -> None:
    text = "a: &a {x: 1, y: 2}\ndeep: {er: {b: &b {<<: *a, y: 3}}}\nc: {<<: *b, x: 5}\n"
    assert parse_yaml(text)["c"] == {"x": 5, "y": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a\n", "key `<<` is given twice; give it a list"),
        ("a: &a {x: 1}\nb: {<<: *a, y: 1, y: 2}\n", "key `y` is given twice"),
        ("b: {<<: text}\n", "expected a mapping or list of mappings for merging, but found scalar"),
        (
            "k0: &k0 {x: 1}\n" + "".join(f"k{i}: &k{i} {{<<: [*k{i - 1}, *k{i - 1}]}}\n" for i in range(1, 60)),
            "`<<` puts more than 10000 keys in",
        ),
    ],
)
def test_merge_that_is_wrong_or_grows_without_bound_is_an_error(text: str, message: str) -> None:
    with pytest.raises(YamlError, match=re.escape(message)):
        parse_yaml(text)
