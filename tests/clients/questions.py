"""Questions to the demo's tasks, with their answers (`configs/demo/data`)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

SUM, SUM_ANSWER = "take 3, times 9, add 4, mod 10?", "3*9=7, 7+4=1. answer: 1"
WEATHER = "how is the weather in berlin today?"
WEATHER_ANSWER = {"city": "berlin", "day": "today"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "day": {"type": "string"}},
    "required": ["city", "day"],
    "additionalProperties": False,
}
# tokens of the prompt and of the answer, by the demo's tokenizer
SUM_TOKENS, WEATHER_TOKENS = (34, 24), (38, 69)
TOOLS: Any = [{"type": "function", "function": {"name": "weather", "description": "weather", "parameters": SCHEMA}}]


class Place(BaseModel):
    """The arguments of the tool `weather`."""

    model_config = ConfigDict(extra="forbid")
    city: str
    day: str


class Call(BaseModel):
    """The answer of the task `tool`, as text."""

    model_config = ConfigDict(extra="forbid")
    name: Literal["weather"]
    arguments: Place


CALL = Call(name="weather", arguments=Place(**WEATHER_ANSWER))
# more than the models' 2,048 positions
LONG = "take 3, times 9, " * 1000
OVERFLOW = "maximum context length"
ASK_SUM: Any = [{"role": "user", "content": SUM}]
ASK_WEATHER: Any = [{"role": "user", "content": WEATHER}]
ASK_LONG: Any = [{"role": "user", "content": LONG}]
