"""What to do with a request, given what its two legs have said so far. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal, TypeAlias

from sun_sglang.router.errors import ApiError
from sun_sglang.router.protocol.sse import EventFramer, event_data
from sun_sglang.router.protocol.worker_replies import error_code, error_message, find_abort, has_error_message
from sun_sglang.router.transport.messages import LegFailure, LegResponse, LegResult

Leg = Literal["prefill", "decode"]
LEGS: tuple[Leg, Leg] = ("prefill", "decode")

# What a decode worker says where its prefill worker is at fault: it could not be met at its bootstrap port, or stopped
# answering there (disaggregation/decode.py, disaggregation/common/conn.py).
_PREFILL_UNREACHABLE = ("Decode handshake failed", "Lost connection with prefill instance")

_MAY_BE_THE_CAUSE = (
    "The request may be the cause, so the router sends it to no other worker. If it is not the cause, send it again"
)


def leg_outcome(result: LegResult | None) -> str:
    """How a leg ended, for counting: `ok`, `refused` (4xx), `failed` (5xx), `lost`, or `abandoned` before it spoke."""
    match result:
        case None:
            return "abandoned"
        case LegFailure():
            return "lost"
        case LegResponse(status=200):
            return "ok"
        case LegResponse(status=status):
            return "refused" if status < 500 else "failed"


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be said yet."""


@dataclass(frozen=True, slots=True)
class Serve:
    """The decode leg's answer goes to the client."""


@dataclass(frozen=True, slots=True)
class Relay:
    """The request itself is at fault: the worker's 4xx goes to the client."""

    error: ApiError


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """A worker is at fault.

    Attributes:
        leg: whose.
        error: what the client gets where a retry is not possible.
        eject: the worker leaves the rotation until it has proven itself again.
        retry: another attempt may be made.
        stale: only a kept connection failed; the next attempt uses new connections and counts as the first.
        doubt: one worker blames the other, and either may be at fault: only the path between them has to prove itself
            again. A worker that lies takes no other worker out of the rotation.
    """

    leg: Leg
    error: ApiError
    eject: bool
    retry: bool = True
    stale: bool = False
    doubt: bool = False


Outcome: TypeAlias = Wait | Serve | Relay | AttemptFailed


def decide(
    prefill: LegResult | None,
    decode: LegResult | None,
    *,
    needs_prefill: bool = False,
    abort_asked: bool = False,
    rid: str = "",
) -> Outcome:
    """Decide on an attempt.

    Args:
        prefill: what the prefill leg said, None if it is still at work.
        decode: what the decode leg said.
        needs_prefill: the answer takes input logprobs from the prefill leg's reply.
        abort_asked: the client asked for the abort that the legs may be reporting; then it is an answer.
        rid: the request id, which every whole answer of SGLang's contains; empty is in every answer.
    """
    if abort_asked and decode is None:
        return Wait()
    if abort_asked and isinstance(decode, LegResponse) and decode.status == HTTPStatus.OK:
        return Serve()
    if abort_asked and isinstance(decode, LegResponse) and decode.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        # SGLang answers 500 where the abort came while KV was on its way; nobody is at fault
        return Relay(ApiError(400, "the request was aborted before its first token", code="aborted"))
    of_prefill, of_decode = _fault("prefill", prefill, rid), _fault("decode", decode, rid)
    if decode is not None and of_decode is None:
        if not needs_prefill:
            # a token out of the decode worker means that the KV arrived: what prefill says cannot change it any more
            return Serve()
        if prefill is not None and of_prefill is None:
            return Serve()
    if isinstance(of_decode, Relay) and not isinstance(of_prefill, Relay):
        return of_decode
    return of_prefill or of_decode or Wait()


def awaited_leg(prefill: LegResult | None) -> Leg:
    """The leg that owes the first token: prefill until it has handed its KV over, which its reply says."""
    return "prefill" if prefill is None else "decode"


def deadline_passed(leg: Leg, *, silent: float, limit: float) -> AttemptFailed:
    """The first token did not come in time.

    Args:
        leg: who owes it.
        silent: seconds since that worker last made progress with any request; one that does is slow and not hung.
        limit: seconds that were waited.
    """
    if silent > limit / 2:
        message = f"no first token within {limit:g} s: the {leg} worker did not answer"
        return AttemptFailed(leg, ApiError(504, message, code="first_token_timeout"), eject=True, retry=False)
    message = f"no first token within {limit:g} s: the {leg} worker has too much to do"
    return AttemptFailed(leg, ApiError(503, message, code="overloaded"), eject=False, retry=False)


def no_progress(limit: float, *, stalled: bool) -> AttemptFailed:
    """Return the end of an answer that is not streamed and did not come in time.

    Args:
        limit: seconds that were waited after the prompt.
        stalled: the decode worker makes no progress with any request. This one may be the cause, so it is not retried.
    """
    if stalled:
        message = f"no answer within {limit:g} s: the decode worker runs no batch. {_MAY_BE_THE_CAUSE}"
        return AttemptFailed("decode", ApiError(504, message, code="worker_stalled"), eject=False, retry=False)
    message = f"no answer within {limit:g} s after the prompt; stream it, or ask for fewer tokens"
    return AttemptFailed("decode", ApiError(504, message, code="answer_timeout"), eject=False, retry=False)


def had_request(leg: Leg, result: LegResult | None, rid: str) -> bool:
    """Return whether a worker may have died of the request: it had the request and had not finished it.

    A refused connection carried nothing. A whole good answer ends the worker's part.
    """
    match result:
        case LegFailure(refused=refused):
            return not refused
        case LegResponse(status=200, streamed=False):
            return _fault(leg, result, rid) is not None
    return True


def worker_died(leg: Leg) -> ApiError:
    """Return the error for a request whose worker died while it had the request."""
    return ApiError(
        502,
        f"the {leg} worker died or stopped answering while it had this request. {_MAY_BE_THE_CAUSE}",
        code="worker_died",
    )


def _fault(leg: Leg, result: LegResult | None, rid: str) -> Relay | AttemptFailed | None:
    if result is None:
        return None
    if isinstance(result, LegFailure) and result.oversized:
        message = f"the {leg} worker failed: {result.detail} (router.max_answer_mb)"
        return AttemptFailed(leg, ApiError(502, message, code=f"{leg}_failed"), eject=False, retry=False)
    if isinstance(result, LegFailure) and result.ours:
        error = ApiError(503, f"the router has too many connections open: {result.detail}", code="overloaded")
        return AttemptFailed(leg, error, eject=False, retry=False)
    if isinstance(result, LegFailure):
        status = 503 if result.refused else 502
        error = ApiError(status, f"the {leg} worker was lost: {result.detail}", code=f"{leg}_lost")
        return AttemptFailed(leg, error, eject=not result.stale, stale=result.stale)
    if result.status == HTTPStatus.UNAUTHORIZED:
        # another worker has its port now, or it has another key: the router is refused, and not the client
        error = ApiError(502, f"the {leg} worker refuses the router's worker key", code=f"{leg}_failed")
        return AttemptFailed(leg, error, eject=True)
    if 400 <= result.status < 500:
        return Relay(_refusal(leg, result))
    if result.status != HTTPStatus.OK:
        return _broken(leg, f"answered {result.status}: {error_message(result.head)}")
    body = _first_data(result.head) if result.streamed else result.head
    if body.startswith((b'{"error"', b'{"object":"error"')):
        return _aborted(leg, error_code(body), error_message(body))
    reason = find_abort(body)
    # events of a stream are checked one by one by the stream's reader
    if reason is None and not result.streamed and rid.encode() not in result.head:
        start = result.head[:80].decode(errors="replace")
        return _broken(leg, f"what it sent is no answer to this request: {start}", of_itself=True)
    if reason is None:
        return None
    return _aborted(leg, reason.get("status_code"), str(reason.get("message") or "the request was aborted"))


def _refusal(leg: Leg, reply: LegResponse) -> ApiError:
    """Return a worker's 4xx for the client: its own body, where clients find the message in it."""
    if has_error_message(reply.head):
        return ApiError(reply.status, f"refused by the {leg} worker", body=reply.head)
    return ApiError(reply.status, error_message(reply.head) or f"refused by the {leg} worker")


def _aborted(leg: Leg, status: object, message: str) -> Relay | AttemptFailed:
    if isinstance(status, int) and 400 <= status < 500:
        return Relay(ApiError(status, message))
    return _broken(leg, message)


def _broken(leg: Leg, message: str, *, of_itself: bool = False) -> AttemptFailed:
    if leg == "decode" and not of_itself and any(sign in message for sign in _PREFILL_UNREACHABLE):
        error = ApiError(502, f"the prefill worker cannot be reached: {message}", code="prefill_lost")
        return AttemptFailed("prefill", error, eject=False, doubt=True)
    return AttemptFailed(leg, ApiError(502, f"the {leg} worker failed: {message}", code=f"{leg}_failed"), eject=False)


def _first_data(head: bytes) -> bytes:
    return next(filter(None, map(event_data, EventFramer(most=len(head)).feed(head))), b"")
