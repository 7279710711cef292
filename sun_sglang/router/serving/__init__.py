"""One client request, from its body to its last byte.

Open `service.py` first: it parses a request, charges its API key, checks its prompt, admits it and reports its end.
`delivery.py` sends the answers to the client. The parts:

- `work_estimate.py`: the expected work of an answer, for rate limits and load balancing.
- `length_check.py`: prompts that no worker accepts are refused before dispatch.
- `admission.py`: an answer waits here for its slot (`scheduling/fair_queue.py` decides the order).
- `merged_stream.py`: several answers in one stream; `rewriting.py`: a worker's bytes in the client's terms;
  `translated_answer.py`: an answer in another API.
- `tokenizer_client.py`: tokens, text and token counts from the workers.
- `in_flight.py`: requests in flight by the client's ids; `request_end.py` and `tracing.py`: reports of ended requests.

Not here: HTTP routes and access rules (`api`, `auth`), the meaning of request fields (`protocol`), and everything that
happens on workers (`dispatch`).
"""
