"""Serve many task-specialised LLMs of one backbone from shared prefill or decode pools, on SGLang.

Each subpackage is one process or one command: `router` (the load balancer), `worker` and `emulator` (the servers behind
it), `launch` (starts and supervises them), `train`, `evaluation`. `contracts` holds the formats between them. A module
belongs at this level only if several subpackages use it. Open `topology.py` first: it describes a deployment.

This package imports no torch. In the CPU environment torchvision lacks operators, so `transformers` cannot load a model
("operator torchvision::nms does not exist") until `sun_sglang.train` is imported or `cpu.define_torchvision_schemas` is
called.
"""

__version__ = "0.1.0"
