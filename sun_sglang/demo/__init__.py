"""The demo's models and data: the tasks, the base model's pretraining, the tuning of each task, and their evaluation.

Belongs here: code that makes files of `configs/demo`. Does not belong here: anything that serving or `sun train`
needs. Open `make.py` first: it makes everything, in order.
"""

from sun_sglang.cpu import define_torchvision_schemas

# transformers imports torchvision where it is installed, and torchvision for the CPU engine lacks operators
define_torchvision_schemas()
