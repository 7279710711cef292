"""English tasks of SmolLM2-135M-Instruct that are LoRA adapters: their data, and what they score.

Belongs here: one file a task that turns a public source into questions and answers, `build.py` that writes them to
`configs/english/data`, and the study of their accuracy. Does not belong here: the recipes (`configs/english/train`)
and how the tasks are served (`configs/demo/adapters.yaml`). Open `build.py` first.
"""
