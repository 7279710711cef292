"""Read a worker's card. I/O: `GET /sun/worker`."""

from __future__ import annotations

import aiohttp
from pydantic import ValidationError

from sun_sglang.contracts.fleet_file import FleetWorker
from sun_sglang.contracts.worker_card import WORKER_CARD_PATH, WorkerCard
from sun_sglang.router.clock import Clock
from sun_sglang.router.deadlines import Deadlines
from sun_sglang.router.transport.errors import is_exhausted
from sun_sglang.router.transport.http_session import OversizedError, describe_error, read_at_most
from sun_sglang.strict import first_invalid

# A real card has about 2 KB.
MAX_CARD_BYTES = 1 << 18
MAX_REASON = 500


class ProbeError(Exception):
    """A worker's card could not be read.

    Args:
        reason: a sentence for people.
        silent: the deadline passed; the worker may only be slow.
        invalid: the worker answered, and its answer is no valid card.
        local: the router had no socket left; that is no sign of a fault of the worker.
    """

    def __init__(self, reason: str, *, silent: bool = False, invalid: bool = False, local: bool = False) -> None:
        self.silent = silent
        self.invalid = invalid
        self.local = local
        super().__init__(reason[:MAX_REASON])


class CardReader:
    """An HTTP client for worker cards.

    Args:
        session: sends the requests.
        clock: measures the deadline.
        interval: seconds between two probes of a worker. A card may take as long.
        deadlines: the limit for a card, where `interval` is not longer.
    """

    def __init__(self, session: aiohttp.ClientSession, clock: Clock, interval: float, deadlines: Deadlines) -> None:
        self._session = session
        self._clock = clock
        self._interval = interval
        self._deadlines = deadlines

    async def read(self, spec: FleetWorker) -> WorkerCard:
        """Return the card that a worker serves now.

        Raises:
            ProbeError: there is no answer in time, or the answer is no valid card.
        """
        limit = max(self._deadlines.probe, self._interval)
        try:
            async with self._clock.timeout(limit):
                return await self._read(spec)
        except TimeoutError as e:
            raise ProbeError(f"no answer within {limit:g} s", silent=True) from e
        except ValidationError as e:
            problem = first_invalid(e, WorkerCard).describe("the reply")
            raise ProbeError(f"its card is not valid: {problem}", invalid=True) from e
        except OversizedError as e:
            raise ProbeError(f"its card is not valid: {e}", invalid=True) from e
        except (aiohttp.ClientError, OSError) as e:
            raise ProbeError(describe_error(e), local=is_exhausted(e)) from e
        except ValueError as e:
            # a host name that the resolver rejects
            raise ProbeError(f"no request can be sent to {spec.url}: {e}") from e

    async def _read(self, spec: FleetWorker) -> WorkerCard:
        url = spec.url + WORKER_CARD_PATH
        async with self._session.get(url, headers=spec.headers, allow_redirects=False) as response:
            body = await read_at_most(response, MAX_CARD_BYTES)
            if response.status == 401:
                raise ProbeError("it requires a worker key that the fleet file does not hold; set its `key`")
            if response.status != 200:
                raise ProbeError(f"GET {WORKER_CARD_PATH} answered {response.status}")
            return WorkerCard.model_validate_json(body)
