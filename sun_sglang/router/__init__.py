"""The load balancer. Decisions are apart from I/O.

Each room imports only rooms below it:

    app            constructs everything, starts and stops it
    api            HTTP: route table, handlers, pages, client connections
    serving        one client request from its body to its last byte
    health         background loops: read cards, prove paths and weights, monitor loads, detect stalls
    dispatch       the two legs of one request: send, decide, retry, abort
    scheduling     which answer goes next, and to which pair of workers (pure)
    auth           API keys, access rules, browser guard
    workers        which workers exist, and which pairs of them are proven
    task_weights   adapters and modules of tasks on one worker: limits, effect, proofs, which are loaded
    transport      connections to workers
    observability  metrics, log, request ids
    protocol       what clients and workers send, parsed and checked (pure)

`errors`, `clock`, `deadlines`, `task_names` and `text` are below all rooms; `background_loops` belongs to `app`.
`docs/request.md` follows one request through the files. First file: `app.py`.
"""
