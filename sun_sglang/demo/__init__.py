"""How the demo's models and data are made."""

from sun_sglang.cpu import define_torchvision_schemas

# transformers imports torchvision where it is installed, and the CPU engine's has no operators
define_torchvision_schemas()
