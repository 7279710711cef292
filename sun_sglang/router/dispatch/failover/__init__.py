"""An answer goes on with another decode worker: after the loss of its own, and when its own is emptied.

Open `continued_response.py` first: the handle on a stream over all workers that make a part of it. A change to

- what counts as a loss, and how many an answer survives, belongs in `losses.py`,
- which pairs compute the same answer belongs in `same_answer.py`,
- which answers leave a worker that is drained with `--move` belongs in `mover.py`.

Not here: what the client has had (`protocol/replay`), the marks of the legs (`dispatch/legs`), and the retry of an
answer of which the client has nothing (`dispatch/dispatcher.py`).
"""
