"""Types of values for request fields, each with its bounds. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from pydantic import TypeAdapter

INT32_MAX = (1 << 31) - 1
INT64_MIN, INT64_MAX = -(1 << 63), (1 << 63) - 1
# SGLang's prefill server ends if a request asks for more (disaggregation/utils.py: MetadataBuffers)
MAX_TOP_LOGPROBS = 128
# srt/sampling/sampling_params.py
MAX_STOPS = 32
MAX_STOP_REGEX = 256
# at every step a decode worker detokenizes again as many tokens as the longest stop string has (schedule_batch.py)
MAX_STOP = 1024
# a Python loop in the scheduler visits every entry (sampling_batch_info.py)
MAX_BIASES = 1024
# larger numbers overflow in half precision, and a NaN among the probabilities ends a scheduler
MAX_BIAS = 10_000
MAX_TEMPERATURE = 100
MAX_IDS = 1024
MAX_TOOLS = 1024
MAX_TEMPLATE_ARGUMENTS = 64
_LAX_INTEGER = TypeAdapter(int)
_LAX_NUMBER = TypeAdapter(float)
_LAX_FLAG = TypeAdapter(bool)
_LAX_IDS = TypeAdapter(list[int])
_LAX_BIASES = TypeAdapter(dict[str, float])


class ValueType(NamedTuple):
    """A type with bounds.

    Attributes:
        description: completes the sentence "the field must be ...".
        accepts: returns whether a value other than null is of this type.
        boundaries: values of this type at its bounds, for tests.
        lax: converts what SGLang's OpenAI classes accept for this type, such as `"12"` and `12.0` for 12 (pydantic's
            lax mode); None if they convert nothing. Raises ValueError for any other value.
    """

    description: str
    accepts: Callable[[Any], bool]
    boundaries: tuple[Any, ...]
    lax: Callable[[Any], Any] | None = None


def _power(value: int) -> str:
    names = {INT32_MAX: "2^31 - 1", INT64_MAX: "2^63 - 1", INT64_MIN: "-2^63"}
    return names.get(value, f"{value:,}")


def integer(low: int, high: int, *, but: Collection[int] = ()) -> ValueType:
    """Return the type of integers from `low` to `high`.

    Args:
        low: the least value.
        high: the greatest value.
        but: values in between that are excluded.
    """

    def holds(value: Any) -> bool:
        return type(value) is int and low <= value <= high and not (but and value in but)

    without = f", not {', '.join(map(str, but))}" if but else ""
    return ValueType(
        f"an integer from {_power(low)} to {_power(high)}{without}", holds, (low, high), _LAX_INTEGER.validate_python
    )


def number(low: float, high: float, *, above: bool = False) -> ValueType:
    """Return the type of numbers from `low` to `high`.

    Args:
        low: the lower bound.
        high: the greatest value.
        above: exclude `low` itself.
    """

    def holds(value: Any) -> bool:
        return type(value) in (int, float) and low <= value <= high and not (above and value == low)

    first = f"above {low:g}, to" if above else f"from {low:g} to"
    edges = (low + 1e-6 if above else low, high)
    return ValueType(f"a number {first} {high:g}", holds, edges, _LAX_NUMBER.validate_python)


def one_of(*values: str | bool) -> ValueType:
    """Return the type of a few values."""

    def holds(value: Any) -> bool:
        return type(value) in types and value in values

    types = frozenset(map(type, values))

    return ValueType(" or ".join(f"`{v}`" if isinstance(v, str) else str(v).lower() for v in values), holds, values)


def text(limit: int | None = None) -> ValueType:
    """Return the type of strings of at most `limit` characters; None leaves the bound to the limit of the body."""

    def holds(value: Any) -> bool:
        return type(value) is str and (limit is None or len(value) <= limit)

    if limit is None:
        return ValueType("a string", holds, ("x",))
    return ValueType(f"a string of at most {limit:,} characters", holds, ("x", "x" * limit))


def texts(most: int, limit: int) -> ValueType:
    """Return the type of a string, or a list of at most `most` strings, each of at most `limit` characters."""

    def is_text(value: Any) -> bool:
        return type(value) is str and len(value) <= limit

    def holds(value: Any) -> bool:
        return is_text(value) or (type(value) is list and len(value) <= most and all(map(is_text, value)))

    edges: tuple[Any, ...] = ("\x00" * limit, ["\x00" * limit] * most, [])
    return ValueType(f"a string, or a list of at most {most}, each of at most {limit:,} characters", holds, edges)


def ids(most: int) -> ValueType:
    """Return the type of lists of at most `most` token ids."""

    def holds(value: Any) -> bool:
        if type(value) is not list or len(value) > most:
            return False
        return not value or ({int}.issuperset(map(type, value)) and min(value) >= 0 and max(value) <= INT32_MAX)

    def convert(value: Any) -> Any:
        # a longer list is refused, and pydantic would collect an error for each entry
        return _LAX_IDS.validate_python(value) if type(value) is list and len(value) <= most else value

    description = f"a list of at most {most:,} token ids: integers from 0 to 2^31 - 1"
    return ValueType(description, holds, ([], [0], [5] * most), convert)


def _is_dict(value: Any) -> bool:
    return type(value) is dict


def _is_no_watermark(value: Any) -> bool:
    if type(value) is not dict or value.get("enabled") is not False:
        return False
    return [name for name, member in value.items() if member is not None] == ["enabled"]


def _is_biases(value: Any) -> bool:
    return (
        type(value) is dict
        and len(value) <= MAX_BIASES
        and all(len(name) <= 10 and name.isascii() and name.isdecimal() and int(name) <= INT32_MAX for name in value)
        and all(type(bias) in (int, float) and -MAX_BIAS <= bias <= MAX_BIAS for bias in value.values())
    )


def _lax_biases(value: Any) -> Any:
    return _LAX_BIASES.validate_python(value) if type(value) is dict and len(value) <= MAX_BIASES else value


def _lax_states(value: Any) -> Any:
    return value if value == "last" else _LAX_FLAG.validate_python(value)


def _is_effort(value: Any) -> bool:
    return (type(value) is str and len(value) <= 32) or (type(value) in (int, float) and 0 <= value <= 100)


def _is_choice(value: Any) -> bool:
    return type(value) is dict or value in ("auto", "none", "required")


def _is_tools(value: Any) -> bool:
    return type(value) is list and len(value) <= MAX_TOOLS and all(map(_is_dict, value))


def _is_top(value: Any) -> bool:
    return type(value) is bool or (type(value) is int and 0 <= value <= MAX_TOP_LOGPROBS)


def _is_template_arguments(value: Any) -> bool:
    return (
        type(value) is dict
        and len(value) <= MAX_TEMPLATE_ARGUMENTS
        # SGLang turns it into a sampling parameter without a check
        and type(value.get("spaces_between_special_tokens", True)) is bool
    )


FLAG = one_of(True, False)._replace(lax=_LAX_FLAG.validate_python)
COUNT = integer(0, INT32_MAX)
SEED = integer(INT64_MIN, INT64_MAX)
TOP_K = integer(-1, INT32_MAX, but=(0,))
TEMPERATURE = number(0, MAX_TEMPERATURE)
TOP_P = number(0, 1, above=True)
MIN_P = number(0, 1)
PENALTY = number(-2, 2)
# SGLang divides logits by it: values near 0 make them overflow
REPETITION_PENALTY = number(0.01, 2)
TOP_LOGPROBS = integer(0, MAX_TOP_LOGPROBS)
TOP_OR_FLAG = ValueType(
    f"an integer from 0 to {MAX_TOP_LOGPROBS}", _is_top, (0, MAX_TOP_LOGPROBS), _LAX_INTEGER.validate_python
)
STOP = texts(MAX_STOPS, MAX_STOP)
STOP_REGEX = texts(MAX_STOPS, MAX_STOP_REGEX)
STOP_IDS = ids(MAX_IDS)
MASK_MODE = one_of("selected", "support")
OBJECT = ValueType("an object", _is_dict, ({},))
NO_WATERMARK = ValueType(
    '`{"enabled": false}`: SGLang makes no watermark with separate prefill and decode workers',
    _is_no_watermark,
    ({"enabled": False},),
)
# a decode worker has the states of the tokens that it computed; of the others nothing, or what its memory held before
LAST_HIDDEN_STATE = ValueType(
    "`last` or false: the decode worker has no hidden states of the prompt and the first token, which another worker "
    "computes",
    lambda value: value is False or value == "last",
    (False, "last"),
    _lax_states,
)
NO_PROMPT_STATES = ValueType(
    "false: the decode worker has none of the prompt and the first token, which another worker computes",
    lambda value: value is False,
    (False,),
    _LAX_FLAG.validate_python,
)
LOGIT_BIAS = ValueType(
    f"an object of at most {MAX_BIASES:,} token ids, with numbers from -{MAX_BIAS:,} to {MAX_BIAS:,}",
    _is_biases,
    ({"5": MAX_BIAS}, {"5": -MAX_BIAS}, {str(i): 1e-9 for i in range(5, 256)}),
    _lax_biases,
)
EFFORT = ValueType("a string, or a number from 0 to 100", _is_effort, ("none", "max", 0, 0.99))
TOOL_CHOICE = ValueType("`auto`, `none`, `required` or an object", _is_choice, ("auto", "none"))
TOOLS = ValueType(f"a list of at most {MAX_TOOLS:,} objects", _is_tools, ([],))
TEMPLATE_ARGUMENTS = ValueType(
    f"an object of at most {MAX_TEMPLATE_ARGUMENTS} variables of the template",
    _is_template_arguments,
    ({f"x{i}": i for i in range(MAX_TEMPLATE_ARGUMENTS)},),
)
# checked with the whole request (request.py)
SHAPED = ValueType("the prompt", lambda value: True, ())
