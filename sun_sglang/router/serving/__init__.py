"""One client request, from its body to its last byte.

Open `service.py` first: it parses a request, charges its API key, checks its prompt, admits it and reports its end.
The parts, in the order in which a request passes them:

- `admission/`: its expected work, the length of its prompt, and the queue for a slot.
- `delivery/`: its answers, whole or streamed, in the client's terms.
- `reporting/`: its end, for metrics, logs and traces.
- `in_flight.py`: requests in flight by the client's ids.

Not here: HTTP routes and access rules (`api`, `auth`), the meaning of request fields (`protocol`), and everything that
happens on workers (`dispatch`).
"""
