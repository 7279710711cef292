"""GET a page of the worker in this pod. Standard library alone: a probe imports it every few seconds."""

from __future__ import annotations

import http.client
import json
import os
from typing import Any

from sun_sglang.contracts.worker_key import bearer, read_key

_WITHIN_S = 15.0


def get_json(path: str) -> Any:
    """Return the JSON that the worker answers; its address is in `POD_IP` and `WORKER_PORT`.

    Raises:
        OSError: the worker does not answer within 15 s, or answers with another status than 200.
        ValueError: the answer is no JSON.
    """
    connection = http.client.HTTPConnection(os.environ["POD_IP"], int(os.environ["WORKER_PORT"]), timeout=_WITHIN_S)
    try:
        connection.request("GET", path, headers=bearer(read_key(os.environ)))
        reply = connection.getresponse()
        body = reply.read()
    except http.client.HTTPException as e:
        raise OSError(f"no HTTP answer: {e!r}") from e
    finally:
        connection.close()
    if reply.status != 200:
        raise OSError(f"GET {path}: {reply.status}")
    return json.loads(body)
