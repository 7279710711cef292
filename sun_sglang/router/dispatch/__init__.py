"""The two legs of one request: sent at once, judged together, ended together.

Open `dispatcher.py` first: it selects a pair of workers, tries it, and tries another pair once. A change to

- what both workers receive belongs in `legs/` (bodies, rooms, ids, whose KV may be reused),
- what a failed leg means belongs in `outcome/`: serve, relay the worker's error, or retry,
- a worker that dies under a request belongs in `worker_death.py`, and its exit from the rotation in `ejection.py`,
- the prefill that several answers to one prompt share belongs in `shared_prompt.py`,
- the wait for a pair where none is usable belongs in `pair_recovery.py`,
- how legs are sent, aborted and ended belongs in `running_attempts.py`; `attempt.py` is the state of one attempt.

Not here: which pair is best (`scheduling`), which pairs are proven (`workers`), bytes on sockets (`transport`), and
what the client receives (`serving`).
"""
