"""The own weights of tasks, LoRA adapters and modules: what a worker accepts, what is proven on it, and what it has.

State and rules. Belongs here: code about the weights of tasks on one worker that needs neither the registry nor a
socket. Does not belong here: the paths of a task with weights of its own (`workers/weights_table.py`), and requests to
workers (`health/task_weights/` gives the weights to workers and proves them). Open `proofs.py` first.

Two kinds of weights pass through the same code: `contracts.module.TaskWeights`. Only the following depends on the kind:
which worker accepts them (`limits.py`), where they are when a request comes (`resident_adapters.py`,
`worker_modules.py`), how a worker gets them (`health/task_weights/clients/`), how a request names them
(`dispatch/legs/`), and how a worker says that it lacks them (`dispatch/outcome/missing_weights.py`).
"""
