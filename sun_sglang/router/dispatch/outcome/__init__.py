"""The meaning of the two legs' results. Pure.

Belongs here: which results serve the client, refuse the request, or blame a worker. First file: `decision.py`;
`worker_refusal.py` writes a worker's error in the client's format, and `worker_message.py` its text.
"""
