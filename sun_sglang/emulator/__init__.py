"""The emulated worker: SGLang's protocol and HTTP API over the cost model and the schedulers of `sun_sglang/sim/`.

    protocol/   requests, replies and errors of SGLang; pure
    engine/     one prefill or decode engine: the schedulers, driven by the real clock, and the bootstrap connections
    api/        the HTTP server

Belongs here: the behaviour of SGLang that a load balancer or a client can observe. Does not belong here: batching and
costs (`sun_sglang/sim/`, which has no clock). Nothing here imports torch or SGLang. Open `worker.py` first.
"""
