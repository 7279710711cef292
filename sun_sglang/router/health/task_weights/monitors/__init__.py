"""Read from prefill workers which weights of tasks they have ready, and count what they did. I/O, in loops.

Belongs here: the pages of workers about adapters and modules, read each `load_interval`. Does not belong here: the
state that selection reads (`router/task_weights/`). Open `page_reader.py` first.
"""
