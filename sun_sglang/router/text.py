"""Make text from clients and workers fit for JSON. Pure."""

from __future__ import annotations

_CUT = "..."


def escape_surrogates(text: str) -> str:
    """Return the text with each surrogate as an escape sequence.

    Header bytes that are not UTF-8 arrive as surrogates (PEP 383), and JSON encoders reject surrogates.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode(errors="backslashreplace").decode()
    return text


def truncate(text: str, most: int) -> str:
    """Return at most `most` characters of the text; a shortened text ends with `...`."""
    return text if len(text) <= most else text[: most - len(_CUT)] + _CUT
