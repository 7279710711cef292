"""API keys: the format of their file, the tasks that each may call, and its rates. Pure; the time is passed in."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, StringConstraints, ValidationError, field_validator

from sun_sglang.errors import UserError
from sun_sglang.router.errors import ApiError
from sun_sglang.router.task_names import TaskNames
from sun_sglang.strict import Strict, YamlError, first_invalid, parse_yaml
from sun_sglang.topology import TaskName

ENVIRONMENT = "SUN_API_KEYS"
_SHORTEST = 16


class KeyFileError(UserError):
    """The key file cannot be read or is invalid. The message names the place and never shows a key."""


class KeySpec(Strict):
    """One key in the file.

    Attributes:
        name: the owner; logs show it in place of the key.
        key: the key itself. A spec has either `key` or `sha256`.
        sha256: the SHA-256 of the key in hexadecimal digits, so that the file holds no secret.
        tasks: the tasks that it may call; None means every task.
        admin: it may also call endpoints that show or change the whole deployment.
        metrics: it may also read `/metrics`, which shows every task.
        requests_per_minute: its mean rate of requests; None means no limit.
        tokens_per_minute: its mean rate of expected work, in tokens; None means no limit.
    """

    name: str = Field(min_length=1, max_length=128)
    key: Annotated[str, StringConstraints(min_length=_SHORTEST, pattern=r"^[\x21-\x7e]+$")] | None = None
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    tasks: tuple[TaskName, ...] | None = None
    admin: bool = False
    metrics: bool = False
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)


class KeyFileContent(Strict):
    """The whole file. A request's key is compared with every key, so their number is bounded."""

    keys: tuple[KeySpec, ...] = Field(min_length=1, max_length=1024)

    @field_validator("keys")
    @classmethod
    def _whole(cls, keys: tuple[KeySpec, ...]) -> tuple[KeySpec, ...]:
        for i, spec in enumerate(keys):
            if (spec.key is None) == (spec.sha256 is None):
                raise ValueError(f"keys.{i}: give either `key` or `sha256`")
        if len({spec.name for spec in keys}) != len(keys):
            raise ValueError("two keys have the same name")
        if len({digest_of(spec) for spec in keys}) != len(keys):
            raise ValueError("two names have the same key")
        return keys


class TokenBucket:
    """A token bucket whose level may become negative: one request passes whole, and later ones wait for the refill.

    Args:
        per_minute: the refill.
        burst: the bucket holds the refill of this many seconds.
    """

    def __init__(self, per_minute: float, burst: float = 10.0) -> None:
        self._rate = per_minute / 60.0
        self._most = max(1.0, self._rate * burst)
        self._level = self._most
        self._at = float("-inf")

    def wait(self, now: float) -> float:
        """Return the seconds until an amount may be spent; 0 if it may be spent now.

        Args:
            now: seconds on any clock that only advances.
        """
        self._level = min(self._most, self._level + (now - self._at) * self._rate)
        self._at = now
        return max(0.0, (1.0 - self._level) / self._rate) if self._level < 1.0 else 0.0

    def spend(self, amount: float) -> None:
        """Lower the level by an amount, after `wait` returned 0."""
        self._level -= amount


class ApiKey:
    """A key while the router runs.

    Args:
        spec: the key's entry in the file.
        processes: how many router processes share its rates.
        before: the key of the same name before the file changed. A rate that did not change keeps its level.

    Attributes:
        name: see `KeySpec`.
        admin: see `KeySpec`.
        metrics: see `KeySpec`; true for every admin key.
        tasks: see `KeySpec`.
        digest: SHA-256 of the key.
    """

    def __init__(self, spec: KeySpec, processes: int, before: ApiKey | None = None) -> None:
        self.name = spec.name
        self.admin = spec.admin
        self.metrics = spec.admin or spec.metrics
        self.tasks = None if spec.tasks is None else frozenset(spec.tasks)
        self.digest = digest_of(spec)
        self._spec = spec
        self._visible: tuple[Sequence[str], Sequence[str]] = ((), ())
        self._requests: TokenBucket | None = _bucket(spec.requests_per_minute, processes)
        self._tokens: TokenBucket | None = _bucket(spec.tokens_per_minute, processes)
        if before is not None and before._spec.requests_per_minute == spec.requests_per_minute:
            self._requests = before._requests
        if before is not None and before._spec.tokens_per_minute == spec.tokens_per_minute:
            self._tokens = before._tokens

    def visible(self, tasks: Sequence[str]) -> Sequence[str]:
        """Return those of the tasks that the key may call; for its client no others exist."""
        if self.tasks is None:
            return tasks
        known, visible = self._visible
        if known is not tasks:
            # the router's list is another object after each change of the fleet, and the same for every request
            visible = TaskNames(task for task in tasks if task in self.tasks)
            self._visible = tasks, visible
        return visible

    def charge(self, tokens: int, now: float, requests: int = 1) -> None:
        """Charge requests against the key's rates.

        Args:
            tokens: expected work of all requests together.
            now: loop time in seconds.
            requests: how many requests.

        Raises:
            ApiError: 429, the key is over a rate. Nothing is charged; `Retry-After` states when to try again.
        """
        buckets = [(self._requests, float(requests)), (self._tokens, float(tokens))]
        wait = max((bucket.wait(now) for bucket, _ in buckets if bucket is not None), default=0.0)
        if wait > 0:
            message = f"key `{self.name}` is over its rate; try again later"
            raise ApiError(429, message, code="rate_limit_exceeded", retry_after=math.ceil(wait))
        for bucket, amount in buckets:
            if bucket is not None:
                bucket.spend(amount)

    def refund(self, tokens: int) -> None:
        """Give back the tokens of a request that was charged and then refused. It still counts as a request."""
        if self._tokens is not None:
            self._tokens.spend(-tokens)


class Keyring:
    """All keys.

    Args:
        specs: the keys.
        processes: how many router processes share their rates.
        before: the keys before the file changed.
    """

    def __init__(self, specs: Iterable[KeySpec], processes: int = 1, before: Keyring | None = None) -> None:
        named = {key.name: key for key in before._keys} if before is not None else {}
        self._keys: list[ApiKey] = [ApiKey(spec, processes, named.get(spec.name)) for spec in specs]

    def find(self, token: str) -> ApiKey | None:
        """Return the key with this secret; None if there is none.

        The time depends on the token's length and on the number of keys alone.
        """
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        found = None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def load_keys(path: str | None, environment: Mapping[str, str]) -> tuple[KeySpec, ...]:
    """Return the keys of a file and of the variable `SUN_API_KEYS`, which holds the same YAML; empty without both.

    Args:
        path: the file; None if there is none.
        environment: the environment variables.

    Raises:
        KeyFileError: a key file cannot be read or is invalid; names the first error.
    """
    specs: tuple[KeySpec, ...] = ()
    if path is not None:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as e:
            raise KeyFileError(f"router.api_keys: {path} cannot be read ({getattr(e, 'strerror', None) or e})") from e
        specs += _parse(text, path)
    if environment.get(ENVIRONMENT):
        specs += _parse(environment[ENVIRONMENT], f"${ENVIRONMENT}")
    if len({s.name for s in specs}) != len(specs) or len({digest_of(s) for s in specs}) != len(specs):
        raise KeyFileError(f"{path} and ${ENVIRONMENT} give the same name or key")
    return specs


def digest_of(spec: KeySpec) -> bytes:
    """Return the SHA-256 of a spec's key."""
    if spec.sha256 is not None:
        return bytes.fromhex(spec.sha256)
    return hashlib.sha256((spec.key or "").encode()).digest()


def _parse(text: str, where: str) -> tuple[KeySpec, ...]:
    try:
        return KeyFileContent.model_validate(parse_yaml(text)).keys
    # neither the text nor a chained error may show: they hold the keys
    except YamlError as e:
        raise KeyFileError(f"{e.where(where)}: not valid YAML") from None
    except ValidationError as e:
        raise KeyFileError(f"{where}: {first_invalid(e, KeyFileContent).describe()}") from None


def _bucket(per_minute: float | None, processes: int) -> TokenBucket | None:
    return None if per_minute is None else TokenBucket(per_minute / processes)
