"""Every timeout, interval and pause of the router that is not a setting of the topology file.

The object is created once (`Router.start` receives it) and passed down when each part of the router is constructed. A
test builds an object of its own with `dataclasses.replace`.

Three kinds of durations are elsewhere:

- Settings that an operator may change: `topology.Router` (`first_token_timeout`, `probe_interval`, ...).
- Constants of one algorithm that no test changes: the tick and the resolution of `clock.Clock`.
- Values that are sent to a client or checked in a client's field: `Retry-After` in `errors.py`, and the bound of the
  field `timeout` of `/flush_cache`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Durations in seconds.

    Attributes:
        connect: limit for opening a connection to a worker.
        keepalive: an idle connection to a worker is kept this long. Below uvicorn's 5 s, so that a request is not
            written to a connection that the worker is just closing.
        abort: limit for a worker's reply to an abort.
        abort_pauses: pauses after each abort of a running attempt. A worker ignores the id of a request that it has not
            received yet, so the abort is repeated.
        liveness: limit for a worker's card after a failed attempt; without it the worker counts as dead.
        linger: limit for the end of the prefill leg once the answer was delivered. Until then its connection cannot be
            used again.
        recovery: a request waits this long for a proven pair where none is left. A broken connection takes a worker out
            of the rotation, and its card and a canary bring it back within a few round trips.
        canary: limit for the whole answer to a canary.
        canary_pause_min: pause before a canary is repeated over a path on which one failed; it doubles each time.
        canary_pause_max: the longest such pause.
        adapter_change: limit for a worker's reply to the load or the unload of an adapter. An unload waits for the
            requests that use the adapter.
        module_change: limit for a worker's reply to a module that it is given, or that is taken from it. It reads and
            copies the whole module: 16 GB from a disk of 100 MB/s take 160 s.
        weights_use_check: weights that no task needs, and that requests still use, are looked at again after this time
            and the pause before their unload.
        weights_unload_pause: weights that no task needs any more are unloaded after this time. Longer than
            `file_check`: the other processes of this router may still send requests for them.
        task_trial: limit for the canaries of a new or changed task, with the load of its adapter on every worker.
        module_trial: the same for a task with a module, which all workers may read from one disk.
        probe: limit for a worker's card in a probe, where `probe_interval` is not longer.
        load_report: limit for a worker's load report, which is read each `load_interval`.
        stall_report: limit for the load report of a worker that shows no progress. Longer than `load_report`: the
            report decides whether the worker leaves the rotation.
        stall_interval_max: longest pause between two checks for progress; a quarter of `idle_timeout` if that is less.
        tokenize_per_byte: time for which a worker may tokenize each byte of a long body. SGLang tokenizes on the event
            loop of its HTTP server, which answers no probe meanwhile: about 1 s for each MB, and several where cores
            are shared.
        tokenize_max: longest time for which long bodies explain that a worker answers no probe.
        token_count: limit for a worker's count of a prompt's tokens, waiting for its turn included.
        worker_info: limit for a worker's reply to a request of `/server_info` or `/flush_cache`.
        client_handshake: limit for a client's TLS handshake.
        client_first_byte: limit for the first byte of a new connection. A client opens some ahead, or has much to do
            before it writes; a connection that has had an answer may rest for any time.
        client_header: limit for a request's header, from its first byte.
        client_refused: the rest of a header that is too large is dropped this long, so that the client reads the error.
        client_body: limit for a request's body, without the time that its bytes add.
        client_body_bytes: bytes of a body that add one second (as Apache's mod_reqtimeout counts).
        client_sweep: interval between two checks of all client connections.
        accept_pause: pause of a listening socket after the process ran out of descriptors. Until one is free the socket
            would wake the event loop all the time.
        delivery_interval_max: longest pause between two checks for clients that do not read; a quarter of
            `write_timeout` if that is less.
        sibling: limit for the reply of another process of this router.
        shared_loads: interval between two checks whether the other processes of this router are alive.
        file_check: interval between two checks whether a watched file was replaced: the fleet file, the key file.
        fleet_lock: limit for obtaining the lock on the fleet file.
        fleet_lock_pause: pause between two attempts to obtain the lock.
        shutdown: limit for writing the last errors to clients when the router stops.
        log: limit for writing queued log lines when the process ends.
    """

    connect: float = 2.0
    keepalive: float = 3.0
    abort: float = 5.0
    abort_pauses: tuple[float, ...] = (0.2, 1.0, 0.0)
    liveness: float = 3.0
    linger: float = 2.0
    recovery: float = 0.5
    canary: float = 30.0
    canary_pause_min: float = 0.5
    canary_pause_max: float = 15.0
    adapter_change: float = 60.0
    module_change: float = 600.0
    weights_use_check: float = 0.1
    weights_unload_pause: float = 3.0
    task_trial: float = 120.0
    module_trial: float = 900.0
    probe: float = 3.0
    load_report: float = 2.0
    stall_report: float = 5.0
    stall_interval_max: float = 1.0
    tokenize_per_byte: float = 4e-6
    tokenize_max: float = 60.0
    token_count: float = 10.0
    worker_info: float = 5.0
    client_handshake: float = 10.0
    client_first_byte: float = 60.0
    client_header: float = 10.0
    client_refused: float = 2.0
    client_body: float = 20.0
    client_body_bytes: float = 500.0
    client_sweep: float = 1.0
    accept_pause: float = 0.1
    delivery_interval_max: float = 5.0
    sibling: float = 1.5
    shared_loads: float = 0.5
    file_check: float = 0.5
    fleet_lock: float = 5.0
    fleet_lock_pause: float = 0.02
    shutdown: float = 2.0
    log: float = 2.0


DEFAULT = Deadlines()
