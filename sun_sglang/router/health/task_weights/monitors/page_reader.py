"""Read a page of a worker about the weights of tasks. I/O."""

from __future__ import annotations

from collections.abc import Container
from typing import Generic, TypeVar

import aiohttp
from pydantic import BaseModel, ValidationError

from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.observability.log import Log
from sun_sglang.router.transport.http_session import describe_error, read_at_most
from sun_sglang.router.workers.worker import Worker

# A name and its numbers take about a hundred bytes.
MAX_PAGE_BYTES = 1 << 23

P = TypeVar("P", bound=BaseModel)


class PageReader(Generic[P]):
    """Reads one page of workers.

    Args:
        session: sends the requests.
        path: of the page.
        page: the model of its content.
        event: name of the log event for the first failure of each start of a worker.
        log: receives it.
        deadlines: the limit for a page.
    """

    def __init__(
        self, session: aiohttp.ClientSession, path: str, page: type[P], event: str, log: Log, deadlines: Deadlines
    ) -> None:
        self._session = session
        self._path = path
        self._page = page
        self._event = event
        self._log = log
        self._deadlines = deadlines
        self._unreadable: dict[str, str] = {}

    async def read(self, worker: Worker) -> P | None:
        """Return a worker's page; None without one. A worker that does not answer is the prober's matter."""
        url, timeout = worker.spec.url + self._path, aiohttp.ClientTimeout(total=self._deadlines.load_report)
        headers = worker.spec.headers
        try:
            async with self._session.get(url, headers=headers, timeout=timeout, allow_redirects=False) as response:
                body = await read_at_most(response, MAX_PAGE_BYTES)
                if response.status == 200:
                    return self._page.model_validate_json(body)
                why = f"it answered {response.status}"
        except ValidationError:
            why = "its page is not valid"
        except (aiohttp.ClientError, OSError) as e:
            why = describe_error(e)
        if self._unreadable.get(worker.name) != worker.incarnation:
            self._unreadable[worker.name] = worker.incarnation
            self._log.event(self._event, worker=worker.name, why=why)
        return None

    def keep(self, workers: Container[str]) -> None:
        """Forget all other workers."""
        self._unreadable = {name: start for name, start in self._unreadable.items() if name in workers}
