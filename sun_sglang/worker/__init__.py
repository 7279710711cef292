"""The SGLang worker: SGLang's own server in a process with this package's hooks and three more routes.

    server             prepares the process, requires every hook, and runs the server
    card_page          `GET /sun/worker`: the worker card
    adapters_page      `GET /sun/adapters`: the adapters in slots, and their cold loads
    prompt_counter     `POST /sun/tokens`: the token count of a prompt
    token_count        counts tokens at a bounded cost
    token_bytes        most bytes of text per token (pure)
    key_middleware     requires the worker key on every route
    asgi               the types of ASGI middleware
    scheduler_watch    detects crashed scheduler processes

Belongs here: code that runs in a worker's process and is no change to SGLang. A change to SGLang belongs in `patches/`,
and the start of workers in `launch/`. Open `server.py` first.
"""
