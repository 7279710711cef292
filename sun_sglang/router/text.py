"""Text that came from outside, made fit for JSON. Pure."""

from __future__ import annotations

_CUT = "..."


def escape_surrogates(text: str) -> str:
    """Return the text with each surrogate written as an escape.

    Header bytes that are not UTF-8 arrive as surrogates (PEP 383), which JSON encoders refuse.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()
    return text


def truncate(text: str, most: int) -> str:
    """Return at most `most` characters of the text; what is cut off shows as `...`."""
    return text if len(text) <= most else text[: most - len(_CUT)] + _CUT
