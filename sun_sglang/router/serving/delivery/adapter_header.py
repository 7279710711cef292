"""The header that names the adapter which prefilled the prompt of an answer. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

ADAPTER_HEADER = "X-Sun-Adapter"


def adapter_header(names: Iterable[str]) -> Mapping[str, str]:
    """Return the header of a response, or none.

    Args:
        names: the adapter of each answer, empty for none. Answers of one request have different ones if their task was
            updated meanwhile; the header then lists them.
    """
    distinct = dict.fromkeys(name for name in names if name)
    return {ADAPTER_HEADER: ", ".join(distinct)} if distinct else {}
