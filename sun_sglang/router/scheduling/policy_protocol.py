"""The interface of a routing policy. README.md describes how to add one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from sun_sglang.router.scheduling.prefix_keys import PrefixKeys
from sun_sglang.router.workers.worker import Worker


class Policy(Protocol):
    """Picks one worker of several that may all serve a request.

    Attributes:
        reads_prefix: whether `pick` uses the keys of a prompt. The router computes none if no policy does.
    """

    reads_prefix: ClassVar[bool]

    def pick(self, workers: Sequence[Worker], cost: int, keys: PrefixKeys) -> Worker:
        """Return the worker that serves a request.

        Args:
            workers: the candidates, at least one. They have one role, and each has the load that it has now.
            cost: expected work of the request on a worker of this role, in tokens.
            keys: hashes of the prompt's beginnings; there may be none.
        """
