"""The load of one worker: requests and tokens by sender, and the long bodies that it tokenizes. State; no clock."""

from __future__ import annotations

from collections.abc import Callable

from sun_sglang.router.deadlines import DEFAULT, Deadlines
from sun_sglang.router.workers.shared_loads import SharedLoads

# Bytes of a request's body from which its tokenization keeps the worker from answering probes (`tokenize_per_byte`).
LONG_BODY_BYTES = 1 << 16


class WorkerLoad:
    """Outstanding work on one worker.

    External load comes from other senders than this router, such as a second router. The worker's report shows it.

    Args:
        worker: hash of the worker's name; the key in the table that the router's processes share.
        deadlines: limits on the time for which a worker may tokenize.
    """

    __slots__ = (
        "_cells",
        "_deadlines",
        "_external_requests",
        "_external_tokens",
        "_lower_callbacks",
        "_requests",
        "_shared",
        "_tokenizing_until",
        "_tokens",
        "_worker",
    )

    def __init__(self, worker: int, deadlines: Deadlines = DEFAULT) -> None:
        self._worker = worker
        self._deadlines = deadlines
        self._requests = 0
        self._tokens = 0
        self._external_requests = 0
        self._external_tokens = 0
        self._tokenizing_until = float("-inf")
        self._lower_callbacks: tuple[Callable[[], None], ...] = ()
        self._shared: SharedLoads | None = None
        self._cells: memoryview | None = None

    @property
    def requests(self) -> int:
        """Requests that this process has in flight on the worker."""
        return self._requests

    @property
    def tokens(self) -> int:
        """Expected work of those requests, in tokens."""
        return self._tokens

    @property
    def router_total(self) -> tuple[int, int]:
        """Requests and tokens that all processes of this router have in flight on the worker."""
        if self._shared is None:
            return self._requests, self._tokens
        requests, tokens = self._shared.of_others(self._worker)
        return self._requests + requests, self._tokens + tokens

    @property
    def external_requests(self) -> int:
        """Requests of other senders, by the worker's last report."""
        return self._external_requests

    @property
    def external_tokens(self) -> int:
        """Outstanding work of those requests, in tokens."""
        return self._external_tokens

    @property
    def total_requests(self) -> int:
        """Requests of all senders."""
        if self._shared is None:
            return self._requests + self._external_requests
        return self.router_total[0] + self._external_requests

    @property
    def total_tokens(self) -> int:
        """Outstanding work of all senders, in tokens."""
        if self._shared is None:
            return self._tokens + self._external_tokens
        return self.router_total[1] + self._external_tokens

    @property
    def totals(self) -> tuple[int, int]:
        """Requests and tokens of all senders, together."""
        if self._shared is None:
            return self._requests + self._external_requests, self._tokens + self._external_tokens
        requests, tokens = self.router_total
        return requests + self._external_requests, tokens + self._external_tokens

    @property
    def is_shared(self) -> bool:
        """Whether the load of other processes counts, which changes at any time."""
        return self._shared is not None

    @property
    def tokenizing_until(self) -> float:
        """Loop time until which the worker may tokenize the long bodies that this process sent to it."""
        return self._tokenizing_until

    def acquire(self, tokens: int) -> None:
        """Count one more request of this process, with its expected work in tokens."""
        self._requests += 1
        self._tokens += tokens
        if self._cells is not None:
            self._cells[0], self._cells[1] = self._requests, self._tokens

    def release(self, tokens: int) -> None:
        """Count one request less, with the tokens that `acquire` received for it."""
        self._requests -= 1
        self._tokens -= tokens
        if self._cells is not None:
            self._cells[0], self._cells[1] = self._requests, self._tokens
        for callback in self._lower_callbacks:
            callback()

    def set_external(self, requests: int, tokens: int) -> None:
        """Replace the load of other senders."""
        self._external_requests, self._external_tokens = requests, tokens
        for callback in self._lower_callbacks:
            callback()

    def add_lower_callback(self, callback: Callable[[], None]) -> None:
        """Add a function to call after each change by which the load may have become lower."""
        self._lower_callbacks = (*self._lower_callbacks, callback)

    def remove_lower_callback(self, callback: Callable[[], None]) -> None:
        """Undo `add_lower_callback`."""
        self._lower_callbacks = tuple(known for known in self._lower_callbacks if known is not callback)

    def note_body(self, size: int, now: float) -> None:
        """Extend the time of tokenization by a body of `size` bytes that is sent at loop time `now`."""
        if size >= LONG_BODY_BYTES:
            done = max(self._tokenizing_until, now) + size * self._deadlines.tokenize_per_byte
            self._tokenizing_until = min(done, now + self._deadlines.tokenize_max)
            if self._cells is not None:
                self._cells[2] = int(self._tokenizing_until * 1000)

    def is_tokenizing(self, now: float) -> bool:
        """Return whether the worker may still tokenize long bodies of any process of this router at loop time `now`."""
        shared = self._shared
        return self._tokenizing_until > now or (shared is not None and shared.tokenizing_until(self._worker) > now)

    def share(self, shared: SharedLoads) -> None:
        """Publish this process's load in the shared table, and count the load of the other processes from now on."""
        self._shared = shared
        self._cells = shared.acquire(self._worker)
        self._cells[0], self._cells[1] = self._requests, self._tokens

    def unshare(self) -> None:
        """Remove this process's load from the shared table: the worker has left the fleet."""
        if self._shared is not None:
            self._shared.release(self._worker)
        self._shared = self._cells = None
