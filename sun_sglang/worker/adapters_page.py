"""`GET /sun/adapters` of an SGLang worker: the adapters in its slots, and their cold loads.

The scheduler writes the report (`patches/lora/cold_loads.py`) into a file that both processes share.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from sun_sglang.contracts.adapters_report import AdaptersReport
from sun_sglang.files.shared_snapshot import SharedSnapshot


class AdaptersPage:
    """The page of one server. Make it before the server starts its schedulers, which find its file by a variable.

    Args:
        environ: the environment of this process.
    """

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        from sun_sglang.patches.lora.cold_loads import ADAPTERS_FILE_VARIABLE

        self._file = SharedSnapshot("sun-adapters")
        environ[ADAPTERS_FILE_VARIABLE] = self._file.path

    async def handle(self, _request: Any) -> Any:
        """Answer a request; a worker that has copied no adapter yet answers with an empty report."""
        from fastapi import Response

        content = self._file.read() or AdaptersReport().model_dump_json().encode()
        return Response(content, media_type="application/json")
