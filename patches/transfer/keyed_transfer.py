"""Require the worker key on the sockets over which workers negotiate KV transfers.

SGLang's are open ZeroMQ sockets. One message that is not SGLang's ends the thread that reads them
(`disaggregation/mooncake/conn.py`, `bootstrap_thread`): the worker stays up and reports healthy, and each later request
waits for its deadline. With a worker key the sockets use CURVE, and receive only from processes that have the key.

From 0.5.22 on the pipeline ranks of a prefill worker report the state of their transfers to rank 0, which listens on
such a socket too (`disaggregation/pp_consensus_store.py`).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from sun_sglang.contracts.worker_key import read_key
from sun_sglang.patches.patch import Patch
from sun_sglang.patches.versions import inactive, on

_WHY = "a message from any sender could end the thread that negotiates KV transfers, and the worker would hang"
_NO_RANKS = "SGLang has no socket between pipeline ranks"
_REMOVABLE_WHEN = "when SGLang authenticates its workers to each other"
_RANKS = "sglang.srt.disaggregation.pp_consensus_store"


class _Pair(NamedTuple):
    public: bytes
    secret: bytes


def listen_with_key(
    listen: Callable[..., tuple[int, Any]], context: Any, socket_type: Any, *args: Any, **kwargs: Any
) -> tuple[int, Any]:
    """Bind a socket that receives only from processes with the key; leave sockets that only send unchanged.

    Args:
        listen: SGLang's function.
        context: the ZeroMQ context.
        socket_type: type of the socket.
        args: further arguments of SGLang's function.
        kwargs: further arguments of SGLang's function.
    """
    import zmq

    pair = _pair()
    if pair is None or socket_type != zmq.PULL:
        return listen(context, socket_type, *args, **kwargs)
    options = {zmq.CURVE_SERVER: 1, zmq.CURVE_SECRETKEY: pair.secret}
    before = dict(context.sockopts)
    context.sockopts.update(options)
    try:
        return listen(context, socket_type, *args, **kwargs)
    finally:
        context.sockopts.clear()
        context.sockopts.update(before)


def manager_connects_with_key(manager: Any, *_args: Any, **_kwargs: Any) -> None:
    """Set the key for the sockets that a manager connects."""
    _set_key(manager._zmq_ctx)


def receiver_connects_with_key(receiver: Any, *_args: Any, **_kwargs: Any) -> None:
    """Set the key for the sockets that a receiver connects."""
    _set_key(receiver._ctx)


def ranks_connect_with_key(connect_ranks: Callable[[Any], None], store: Any) -> None:
    """Connect the pipeline ranks of a prefill worker with the key.

    SGLang applies the hook on the listening socket in every module that has imported the function. So rank 0 listens
    with the key, and receives from no rank without it. A hook on the function that connects would affect every socket.
    """
    ranks = importlib.import_module(_RANKS)
    listen, connect = ranks.get_zmq_socket_on_host, ranks.get_zmq_socket

    def connect_with_key(context: Any, *args: Any, **kwargs: Any) -> Any:
        _set_key(context)
        return connect(context, *args, **kwargs)

    vars(ranks).update(get_zmq_socket_on_host=partial(listen_with_key, listen), get_zmq_socket=connect_with_key)
    try:
        connect_ranks(store)
    finally:
        vars(ranks).update(get_zmq_socket_on_host=listen, get_zmq_socket=connect)


def ranks_need_no_key() -> str | None:
    """Return why pipeline ranks need no key; None if they have a socket."""
    return None if importlib.util.find_spec(_RANKS) else _NO_RANKS


def _set_key(context: Any) -> None:
    import zmq

    pair = _pair()
    if pair is not None:
        options = {zmq.CURVE_SERVERKEY: pair.public, zmq.CURVE_PUBLICKEY: pair.public, zmq.CURVE_SECRETKEY: pair.secret}
        context.sockopts.update(options)


def _pair() -> _Pair | None:
    """Return the deployment's key pair, derived from its worker key; None without a worker key.

    CURVE never sends the server's public key, so a peer that has it has the worker key.
    """
    import zmq
    from zmq.utils import z85

    key = read_key(os.environ)
    if key is None:
        return None
    secret = z85.encode(hashlib.sha256(b"sun-sglang kv transfer\0" + key.encode()).digest())
    return _Pair(zmq.curve_public(secret), secret)


LISTEN = Patch(
    name="keyed_transfer.listen",
    target="sglang.srt.disaggregation.common.conn.get_zmq_socket_on_host",
    parameters=(("context", "socket_type", "host"), ("context", "socket_type", "host", "restrict_peers")),
    kind="around",
    hook=listen_with_key,
    why=_WHY,
    versions=on("binds with the worker key"),
    removable_when=_REMOVABLE_WHEN,
)
MANAGER = Patch(
    name="keyed_transfer.manager",
    target="sglang.srt.disaggregation.common.conn.CommonKVManager._connect",
    parameters=(("self", "endpoint", "is_ipv6"),),
    kind="before",
    hook=manager_connects_with_key,
    why=_WHY,
    versions=on("connects a manager with the worker key"),
    removable_when=_REMOVABLE_WHEN,
)
RECEIVER = Patch(
    name="keyed_transfer.receiver",
    target="sglang.srt.disaggregation.common.conn.CommonKVReceiver._connect",
    parameters=(("cls", "endpoint", "is_ipv6"),),
    kind="before",
    hook=receiver_connects_with_key,
    why=_WHY,
    versions=on("connects a receiver with the worker key"),
    removable_when=_REMOVABLE_WHEN,
)
RANKS = Patch(
    name="keyed_transfer.ranks",
    target=f"{_RANKS}.PPConsensusStore._init_zmq",
    parameters=(("self",),),
    kind="around",
    hook=ranks_connect_with_key,
    why="rank 0 of a pipeline would receive from no other rank, and its requests would wait for their deadline",
    versions={
        **inactive(_NO_RANKS, ("0.5.21",)),
        **on("connects pipeline ranks with the worker key", ("0.5.22", "0.5.23")),
    },
    removable_when=_REMOVABLE_WHEN,
    inactive_reason=ranks_need_no_key,
)
