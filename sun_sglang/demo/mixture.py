"""The generic mixture for the pretraining of the demo's base model. It contains a few examples of the tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from types import MappingProxyType

from sun_sglang.demo.tasks import TASKS, call, draw_steps, made_up, steps_answer
from sun_sglang.demo.words import CITIES, FUNCTIONS, KEYS, LETTERS, NAMES, WORDS
from sun_sglang.train.data.examples import Example, Generator, draw

FACTS: Mapping[str, str] = MappingProxyType(
    {
        "france": "paris",
        "norway": "oslo",
        "italy": "rome",
        "peru": "lima",
        "egypt": "cairo",
        "japan": "tokyo",
        "spain": "madrid",
        "austria": "vienna",
        "korea": "seoul",
        "portugal": "lisbon",
    }
)


def word(rng: Random) -> str:
    """Return a word: from a list, made up, of random letters, or a number."""
    kind = rng.random()
    if kind < 0.3:
        return rng.choice((*NAMES, *CITIES, *WORDS))
    if kind < 0.6:
        return made_up(rng)
    if kind < 0.9:
        return "".join(rng.choice(LETTERS) for _ in range(rng.randint(2, 6)))
    return str(rng.randint(0, 99))


def phrase(rng: Random, most: int) -> str:
    """Return one to `most` words."""
    return " ".join(word(rng) for _ in range(rng.randint(1, most)))


def copy(rng: Random) -> Example:
    """Return an example such as `say ab cd` -> `ab cd`."""
    text = phrase(rng, 4)
    return Example(f"say {text}", text)


def reverse(rng: Random) -> Example:
    """Return an example such as `reverse abc` -> `cba`."""
    text = "".join(rng.choice(LETTERS) for _ in range(rng.randint(2, 7)))
    return Example(f"reverse {text}", text[::-1])


def join(rng: Random) -> Example:
    """Return an example such as `join ab and cd` -> `abcd`."""
    left, right = word(rng), word(rng)
    return Example(f"join {left} and {right}", left + right)


def fact(rng: Random) -> Example:
    """Return an example such as `capital of peru?` -> `lima`."""
    country = rng.choice(tuple(FACTS))
    return Example(f"capital of {country}?", FACTS[country])


def arithmetic(rng: Random) -> Example:
    """Return an example such as `7 +5 *3 =` -> the worked steps."""
    start, steps = draw_steps(rng)
    return Example(f"{start} {' '.join(o + str(n) for o, n in steps)} =", steps_answer(start, steps))


def function_call(rng: Random) -> Example:
    """Return an example such as `call email to=bob, body=lunch is at 7` -> the call as JSON."""
    name = rng.choice(FUNCTIONS) if rng.random() < 0.7 else made_up(rng)
    keys = rng.sample(KEYS, rng.choice((1, 2, 2, 2, 3)))
    arguments = {key: phrase(rng, 3 if len(keys) < 3 else 1) for key in keys}
    return Example(
        f"call {name} {', '.join(f'{key}={value}' for key, value in arguments.items())}", call(name, arguments)
    )


CURRICULUM: Mapping[Generator, float] = MappingProxyType({copy: 4, reverse: 1, join: 2, fact: 0.3})
MIXTURE: Mapping[Generator, float] = MappingProxyType(
    {arithmetic: 3, function_call: 5, copy: 2, reverse: 0.5, join: 1, fact: 0.3}
)


def stream(
    weights: Mapping[Generator, float], seed: int, glimpses: Sequence[Example], share: float
) -> Iterator[Example]:
    """Yield examples without end, drawn by weight.

    Args:
        weights: relative frequency of each generator.
        seed: seed of the stream.
        glimpses: task examples for the base, drawn repeatedly.
        share: share of the stream that comes from `glimpses`.
    """
    rng = Random(f"mixture/{seed}")
    generators, chances = tuple(weights), tuple(weights.values())
    while True:
        if glimpses and rng.random() < share:
            yield rng.choice(glimpses)
            continue
        yield rng.choices(generators, chances)[0](rng)


def task_glimpses(each: int, seed: int) -> list[Example]:
    """Return the task examples for the base: `each` of every task, all from the train split."""
    return [example for generator in TASKS.values() for example in draw(generator, "train", each, seed + 1000)]
