"""`python -m sun_sglang.train RECIPE.yaml`: `sun train`, in the form that `torchrun` and `accelerate launch` start."""

from __future__ import annotations

import sys

from sun_sglang.cli.main import main

main(["train", *sys.argv[1:]])
