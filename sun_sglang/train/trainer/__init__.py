"""Optimisation of one learning rate, in one process or over several that shard it.

Belongs here: `transformers.Trainer` and the settings of accelerate and DeepSpeed. `accelerate.py` and `deepspeed.py`
are named after the packages that they configure; imports in this project are absolute, so they hide neither. Does not
belong here: the search over learning rates (`sweep.py`). Open `trainer.py` first.
"""
