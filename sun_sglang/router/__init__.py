"""The load balancer: decisions apart from I/O.

A request goes through, in this order:

    app          HTTP handlers; one place where a problem becomes a response
    clients      connections: their bound, their deadlines
    browser      what a foreign web page may not do
    access       who may ask for this                   (keys; key_file: their file while it changes)
    serve        one request from body to last byte
    request      body -> checked, immutable request     (fields, field_table, field_kinds, schemas, schema_loops,
                 patterns: what clients may send; field_page: the table as a page)
    fanout       several answers -> single requests, and their replies -> one
    lengths      too long a prompt is refused           (limits: by how much text, tokens)
    legs         the bodies of both legs: rooms, ids, namespaces, and expected work (sizes)
    gate         each answer waits for a slot           (admission: caps, and each task's share)
    dispatch     chooses (policy, affinity), sends (wire, exchange), decides (verdict), retries, aborts
    answer       what has begun to be answered          (attempt: its state)
    streams      several answers as one stream          (sse: framing and what to watch for)

Beside it, for as long as the router runs:

    registry     workers and proven paths, pure         (fleet: the file they come from)
    transition   from one fleet to another, pure
    register     reads cards, sends canaries            (canary)
    changes      the fleet file while it changes         (admin: the API for that)
    siblings     the router's other processes            (shared: what they have on workers)
    delivery     disconnects clients that do not read
    stall        ends what makes no progress
    loads        asks workers how much work they have, whoever it is from
    info         what can be asked about the fleet      (metrics)
    tracing      spans of requests that ended           (names: the ids that logs and traces share)

Used along the way: `problem` (an error as an answer), `replies` (what workers say, read), `rewrite` (a worker's bytes
as the client is to see them), `logprobs` (a prompt's, put into the answer), `expect` (how long answers are),
`inflight` (what clients wait for, by their ids), `randomness` (what ids are made of), `log` (`log_writer`: the thread
that writes it), `text` (text from outside, fit for JSON), `nesting` (JSON that is too deep to walk).

`bounded` (reading a reply up to a size), `clock` (time without the router's own pauses) and `watched` (a file that
others change) serve several of these.

`wire` (over `exchange` and `connections`), `register`, `lengths`, `stall`, `loads` and `info` talk to workers; nothing
else does.
"""
