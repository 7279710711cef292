"""The `instructor` package, in its modes `JSON_SCHEMA` and `TOOLS`."""

from __future__ import annotations

import instructor
import openai
import pytest
from instructor.core import InstructorRetryException

from tests.clients import questions as q


# without `strict`, SGLang constrains the name of a required call, not its arguments; the demo's models need both
def strict(name: str) -> dict[str, object]:
    return {"tools": [openai.pydantic_function_tool(q.Place, name=name)]}


def client(v1: str, mode: instructor.Mode = instructor.Mode.JSON_SCHEMA) -> instructor.Instructor:
    return instructor.from_openai(openai.OpenAI(base_url=v1, api_key="none", max_retries=0), mode=mode)


def ask(made: instructor.Instructor, task: str, messages: object, model: type = q.Place, **settings: object) -> object:
    return made.chat.completions.create(
        model=task,
        messages=messages,
        response_model=model,
        temperature=0,
        max_tokens=200,
        max_retries=0,
        **settings,
    )


def test_instructor_structured_output(v1: str) -> None:
    """The client adds the schema to the prompt, so the model's values are others."""
    assert isinstance(ask(client(v1), "tool", q.ASK_WEATHER, q.Call), q.Call)


def test_instructor_tool_call(v1: str) -> None:
    made = client(v1, instructor.Mode.TOOLS)
    assert isinstance(ask(made, "tool", q.ASK_WEATHER, extra_body=strict("Place")), q.Place)


def test_instructor_tool_call_streamed(v1: str) -> None:
    parts = client(v1, instructor.Mode.TOOLS).chat.completions.create_partial(
        model="tool",
        messages=q.ASK_WEATHER,
        response_model=q.Place,
        temperature=0,
        max_tokens=200,
        max_retries=0,
        extra_body=strict("PartialPlace"),
    )
    last = list(parts)[-1]
    assert last.city is not None
    assert last.day is not None


def test_instructor_overflow(v1: str) -> None:
    with pytest.raises((InstructorRetryException, openai.BadRequestError), match=q.OVERFLOW):
        ask(client(v1), "math", q.ASK_LONG)


def test_instructor_error_text(v1: str) -> None:
    with pytest.raises((InstructorRetryException, openai.NotFoundError), match="no task is named `gpt-4`"):
        ask(client(v1), "gpt-4", q.ASK_SUM)
