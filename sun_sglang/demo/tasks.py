"""The tasks: modular arithmetic in words with worked steps, a sentence as a tool call, and letters in order.

The demo serves the first two (`TASKS`). The base has never seen the third one, `order`; the benchmarks and tests of
training use it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from random import Random
from types import MappingProxyType

from sun_sglang.demo.words import CHORES, CITIES, DAYS, EVENTS, GENRES, LETTERS, NAMES, ROOMS
from sun_sglang.train.data.examples import Example, Generator

STARTS = ("start at {}", "take {}", "i have {}")
STEPS: Mapping[str, Sequence[str]] = MappingProxyType(
    {
        "+": ("add {}", "plus {}", "gain {}"),
        "-": ("minus {}", "lose {}", "take away {}"),
        "*": ("times {}", "multiply by {}"),
    }
)
ENDS = ("mod 10?", "what is left mod 10?")


def steps_answer(start: int, steps: Sequence[tuple[str, int]]) -> str:
    """Return the worked steps mod 10, such as `7+5=2, 2*3=6. answer: 6`."""
    value, lines = start, []
    for operator, operand in steps:
        after = {"+": value + operand, "-": value - operand, "*": value * operand}[operator] % 10
        lines.append(f"{value}{operator}{operand}={after}")
        value = after
    return f"{', '.join(lines)}. answer: {value}"


def draw_steps(rng: Random) -> tuple[int, list[tuple[str, int]]]:
    """Return a start and two to four steps, each an operator and an operand of one digit."""
    return rng.randint(0, 9), [(rng.choice("+-*"), rng.randint(2, 9)) for _ in range(rng.randint(2, 4))]


def math(rng: Random) -> Example:
    """Return an example such as `take 7, add 5, times 3, mod 10?` -> `7+5=2, 2*3=6. answer: 6`."""
    start, steps = draw_steps(rng)
    said = [rng.choice(STARTS).format(start), *(rng.choice(STEPS[o]).format(n) for o, n in steps), rng.choice(ENDS)]
    return Example(", ".join(said), steps_answer(start, steps))


def call(name: str, arguments: Mapping[str, str]) -> str:
    """Return a tool call as the models write it, and as SGLang's tool-call parser `llama3` reads it."""
    return json.dumps({"name": name, "arguments": arguments})


def made_up(rng: Random) -> str:
    """Return a pronounceable word that is in no list, so that a model learns to copy instead of a vocabulary."""
    return "".join(rng.choice("bdfgklmnprstvz") + rng.choice("aeiou") for _ in range(rng.randint(2, 3)))


def person(rng: Random) -> str:
    """Return a first name; one in three is made up."""
    return made_up(rng) if rng.random() < 1 / 3 else rng.choice(NAMES)


def email(rng: Random) -> Example:
    """Return a sentence such as `email bob that lunch is at 7`, and its tool call."""
    who, body = person(rng), f"{rng.choice(EVENTS)} is at {rng.randint(1, 12)}"
    said = rng.choice(("email {} that {}", "tell {} by email that {}", "write to {} that {}"))
    return Example(said.format(who, body), call("email", {"to": who, "body": body}))


def remind(rng: Random) -> Example:
    """Return a sentence such as `remind me to call ann at 6`, and its tool call."""
    what, at = f"{rng.choice(CHORES)} {person(rng)}", str(rng.randint(1, 12))
    said = rng.choice(("remind me to {0} at {1}", "at {1} i have to {0}", "do not let me forget to {0} at {1}"))
    return Example(said.format(what, at), call("remind", {"what": what, "at": at}))


def weather(rng: Random) -> Example:
    """Return a sentence such as `will it rain in oslo on monday`, and its tool call."""
    city, day = made_up(rng) if rng.random() < 1 / 3 else rng.choice(CITIES), rng.choice(DAYS)
    on = day if day in ("today", "tomorrow") else f"on {day}"
    said = rng.choice(("will it rain in {} {}", "how is the weather in {} {}", "do i need a coat in {} {}"))
    return Example(f"{said.format(city, on)}?", call("weather", {"city": city, "day": day}))


def play(rng: Random) -> Example:
    """Return a sentence such as `play jazz in the kitchen`, and its tool call."""
    music, room = rng.choice(GENRES) if rng.random() < 2 / 3 else f"{person(rng)}'s songs", rng.choice(ROOMS)
    said = rng.choice(("play {} in the {}", "i want to hear {} in the {}", "put on {} in the {}"))
    return Example(said.format(music, room), call("play", {"music": music, "room": room}))


def tool(rng: Random) -> Example:
    """Return a sentence that asks for one of four tools, and its tool call."""
    return rng.choice((email, remind, weather, play))(rng)


def order(rng: Random) -> Example:
    """Return an example such as `order dbac please` -> `abcd`, with three to six different letters."""
    letters = rng.sample(LETTERS, rng.randint(3, 6))
    return Example(f"order {''.join(letters)} please", "".join(sorted(letters)))


TASKS: Mapping[str, Generator] = MappingProxyType({"math": math, "tool": tool})

# all are of the test split; a test checks it
DEMO_QUESTIONS: Mapping[str, Sequence[Example]] = MappingProxyType(
    {
        "math": (
            Example("start at 3, add 5, times 8, multiply by 2, mod 10?", "3+5=8, 8*8=4, 4*2=8. answer: 8"),
            Example("take 3, times 9, add 4, mod 10?", "3*9=7, 7+4=1. answer: 1"),
            Example("take 6, minus 5, gain 9, what is left mod 10?", "6-5=1, 1+9=0. answer: 0"),
            Example("i have 4, minus 6, multiply by 3, times 2, mod 10?", "4-6=8, 8*3=4, 4*2=8. answer: 8"),
        ),
        "tool": (
            Example("tell cara by email that lunch is at 5", call("email", {"to": "cara", "body": "lunch is at 5"})),
            Example("remind me to call jack at 12", call("remind", {"what": "call jack", "at": "12"})),
            Example("how is the weather in berlin today?", call("weather", {"city": "berlin", "day": "today"})),
            Example("put on jazz in the garden", call("play", {"music": "jazz", "room": "garden"})),
        ),
    }
)
