"""What a request passes before its dispatch.

Belongs here: checks and waits that no worker's answer depends on. First file: `admission_queue.py`, in which an answer
waits for its slot (`scheduling/fair_queue.py` decides the order). `work_estimate.py` estimates the work of an answer,
for rate limits and load balancing; `length_check.py` refuses prompts that no worker accepts; `tokenizer_client.py` gets
tokens, text and token counts from the workers.
"""
