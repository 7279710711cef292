"""Training: a recipe, a base model and data become a checkpoint that a shared decoder can decode for.

Belongs here: the recipe, the two-module loss (`objective/`), data (`data/`), optimisation (`trainer/`), the sweep over
learning rates. Does not belong here: how the demo's models are made (`demo/`), accuracy (`evaluation/`), the format of
`sun.json` (`contracts/module_file.py`). Open `sweep.py` first: it runs a recipe from start to checkpoint.
"""

from sun_sglang.cpu import define_torchvision_schemas

# transformers imports torchvision where it is installed, and torchvision for the CPU engine lacks operators
define_torchvision_schemas()
