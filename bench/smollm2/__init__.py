"""The benchmarks' real language model: SmolLM2-135M-Instruct, and four tasks that are tuned from it.

Belongs here: how its checkpoint, its tasks' data and its tasks' modules are made (`make model`, `make model-tasks`).
Does not belong here: how they are served (`configs/smollm2/`), and what is measured with them. Open `model.py` first.
"""
