"""The outcome of an attempt: a decision on the results of its two legs so far. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeAlias, TypeGuard

from sun_sglang.contracts.module import TaskWeights
from sun_sglang.router.dispatch.failover.losses import Loss
from sun_sglang.router.dispatch.legs.leg_bodies import Leg
from sun_sglang.router.dispatch.outcome.missing_weights import lacks_weights
from sun_sglang.router.dispatch.outcome.worker_message import for_client
from sun_sglang.router.dispatch.outcome.worker_refusal import refusal, refusal_of
from sun_sglang.router.errors import ApiError
from sun_sglang.router.protocol.sse import EventFramer, event_data
from sun_sglang.router.protocol.worker_replies import error_code, error_message, find_abort
from sun_sglang.router.task_weights.kind import kind_of
from sun_sglang.router.transport.messages import LegFailure, LegResponse, LegResult

# Messages of a decode worker whose prefill worker does not answer at its bootstrap port (disaggregation/decode.py,
# disaggregation/common/conn.py).
_PREFILL_UNREACHABLE = ("Decode handshake failed", "Lost connection with prefill instance")

MAY_BE_THE_CAUSE = (
    "The request may be the cause, so the router sends it to no other worker. If it is not the cause, send it again"
)


def leg_outcome(result: LegResult | None) -> str:
    """Return how a leg ended, as a label of the metrics.

    `ok`, `refused` (4xx), `failed` (5xx), `lost` (no response), or `abandoned` (the router ended it before a result).
    """
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
    """The results so far decide nothing."""


@dataclass(frozen=True, slots=True)
class Serve:
    """The client receives the decode leg's response."""


@dataclass(frozen=True, slots=True)
class Relay:
    """The request itself is at fault: the client receives the worker's 4xx."""

    error: ApiError


@dataclass(frozen=True, slots=True)
class AttemptFailed:
    """A worker is at fault.

    Attributes:
        leg: the leg of that worker.
        error: the client receives it if there is no retry.
        eject: the worker leaves the rotation until its card and a canary pass.
        retry: another attempt may follow.
        stale: only an idle connection failed; the next attempt uses new connections and counts as the first.
        revoke: one worker blames the other, and either may be at fault: only the path between them leaves the rotation
            until a canary passes. So a worker with a defect removes no other worker from the rotation.
        lacks_weights: the prefill worker does not have the task's own weights; it serves other tasks as before.
        loss: the answer leaves its decode worker for this reason, and a task with failover goes on elsewhere; None for
            any other failure.
    """

    leg: Leg
    error: ApiError
    eject: bool
    retry: bool = True
    stale: bool = False
    revoke: bool = False
    lacks_weights: bool = False
    loss: Loss | None = None


Outcome: TypeAlias = Wait | Serve | Relay | AttemptFailed


def decide(
    prefill: LegResult | None,
    decode: LegResult | None,
    *,
    needs_prefill: bool = False,
    abort_asked: bool = False,
    rid: str = "",
    weights: TaskWeights | None = None,
) -> Outcome:
    """Decide the outcome of an attempt.

    Args:
        prefill: result of the prefill leg; None while it runs.
        decode: result of the decode leg; None while it runs.
        needs_prefill: the answer includes logprobs of the prefill leg's response.
        abort_asked: the client asked for an abort; a response that reports the abort is then an answer.
        rid: the request id, which every complete response of SGLang contains; an empty one skips the check.
        weights: the task's own weights that the prefill leg requests; None for none.
    """
    if abort_asked and decode is None:
        return Wait()
    if abort_asked and isinstance(decode, LegResponse) and decode.status == HTTPStatus.OK:
        return Serve()
    if abort_asked and isinstance(decode, LegResponse) and decode.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        # SGLang answers 500 if the abort arrived during the KV transfer; no worker is at fault
        return Relay(ApiError(400, "the request was aborted before its first token", code="aborted"))
    of_prefill, of_decode = find_fault("prefill", prefill, rid, weights), find_fault("decode", decode, rid)
    if decode is not None and of_decode is None:
        if not needs_prefill:
            # a token from the decode worker proves that the KV arrived; the prefill leg cannot refute it later
            return Serve()
        if prefill is not None and of_prefill is None:
            return Serve()
    if isinstance(of_decode, Relay) and not isinstance(of_prefill, Relay):
        return of_decode
    return of_prefill or of_decode or Wait()


def awaited_leg(prefill: LegResult | None) -> Leg:
    """Return the leg whose work the first token waits for: prefill until its response reports that the KV was sent."""
    return "prefill" if prefill is None else "decode"


def deadline_passed(leg: Leg, *, silent: float, limit: float) -> AttemptFailed:
    """Return the outcome of an attempt whose first token did not arrive in time.

    Args:
        leg: the awaited leg.
        silent: seconds since its worker last made progress with any request. A worker with progress is slow, not hung.
        limit: seconds that the attempt had.
    """
    if silent > limit / 2:
        message = f"no first token within {limit:g} s: the {leg} worker did not answer"
        return AttemptFailed(leg, ApiError(504, message, code="first_token_timeout"), eject=True, retry=False)
    message = f"no first token within {limit:g} s: the {leg} worker has too much to do"
    return AttemptFailed(leg, ApiError(503, message, code="overloaded"), eject=False, retry=False)


def no_progress(limit: float, *, stalled: bool) -> AttemptFailed:
    """Return the outcome of an attempt whose unstreamed answer did not arrive in time.

    Args:
        limit: seconds that the answer had after the prompt.
        stalled: the decode worker makes no progress with any request. This one may be the cause, so it is not retried
            without failover.
    """
    if stalled:
        message = f"no answer within {limit:g} s: the decode worker runs no batch. {MAY_BE_THE_CAUSE}"
        error = ApiError(504, message, code="worker_stalled")
        return AttemptFailed("decode", error, eject=False, retry=False, loss=Loss.STALLED)
    message = f"no answer within {limit:g} s after the prompt; stream it, or ask for fewer tokens"
    return AttemptFailed("decode", ApiError(504, message, code="answer_timeout"), eject=False, retry=False)


def leaves_worker() -> AttemptFailed:
    """Return the outcome of an attempt whose decode worker is emptied, and of which the client has nothing."""
    error = ApiError(503, "the decode worker is drained, and no other one can serve the request", code="no_worker")
    return AttemptFailed("decode", error, eject=False, loss=Loss.MOVED)


def aborted_early() -> ApiError:
    """Return the error for a request that its client aborted before any worker received it."""
    return ApiError(400, "the request was aborted before it reached a worker", code="aborted")


def find_fault(
    leg: Leg, result: LegResult | None, rid: str, weights: TaskWeights | None = None
) -> Relay | AttemptFailed | None:
    """Return what is wrong with one leg; None if it runs or succeeded.

    Args:
        leg: which one.
        result: its result; None while it runs.
        rid: the request id; see `decide`.
        weights: the task's own weights that the leg requests; None for none.
    """
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
        # another worker has its port now, or it has another key: it refuses the router, not the client
        error = ApiError(502, f"the {leg} worker refuses the router's worker key", code=f"{leg}_failed")
        return AttemptFailed(leg, error, eject=True)
    if weights is not None and result.status == HTTPStatus.BAD_REQUEST and lacks_weights(result.head, weights):
        kind = kind_of(weights)
        error = ApiError(503, f"the {leg} worker does not have the task's {kind} now", code=f"{kind}_missing")
        return AttemptFailed(leg, error, eject=False, lacks_weights=True)
    if 400 <= result.status < 500:
        return Relay(refusal_of(leg, result.status, result.head))
    if result.status != HTTPStatus.OK:
        return _broken(leg, f"answered {result.status}: {error_message(result.head)}")
    body = _first_data(result.head) if result.streamed else result.head
    if body.startswith((b'{"error"', b'{"object":"error"')):
        code = error_code(body)
        return Relay(refusal_of(leg, code, body)) if _is_refusal(code) else _broken(leg, error_message(body))
    reason = find_abort(body)
    # the reader of a stream checks its events one by one
    if reason is None and not result.streamed and rid.encode() not in result.head:
        start = result.head[:80].decode(errors="replace")
        return _broken(leg, f"its response is no answer to this request: {start}", blames_prefill=False)
    if reason is None:
        return None
    code, message = reason.get("status_code"), str(reason.get("message") or "the request was aborted")
    return Relay(refusal(code, message)) if _is_refusal(code) else _broken(leg, message)


def _is_refusal(status: object) -> TypeGuard[int]:
    return isinstance(status, int) and 400 <= status < 500


def _broken(leg: Leg, message: str, *, blames_prefill: bool = True) -> AttemptFailed:
    if leg == "decode" and blames_prefill and any(sign in message for sign in _PREFILL_UNREACHABLE):
        error = ApiError(502, f"the prefill worker cannot be reached: {for_client(message).text}", code="prefill_lost")
        return AttemptFailed("prefill", error, eject=False, revoke=True)
    text = f"the {leg} worker failed: {for_client(message).text}"
    return AttemptFailed(leg, ApiError(502, text, code=f"{leg}_failed"), eject=False)


def _first_data(head: bytes) -> bytes:
    return next(filter(None, map(event_data, EventFramer(most=len(head)).feed(head))), b"")
