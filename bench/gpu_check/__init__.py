"""`make gpu-check`: show on a machine with GPUs what no machine without a GPU can show.

Here: the stages (`stages/`, one file each) and what they share: random checkpoints and their expected answers
(`models/`), a running deployment (`deployment`), facts about the machine (`machine`). Not here: benchmarks, and
anything that needs a model hub or pytest. Open `__main__.py` first.
"""
