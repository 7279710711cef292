"""Table 3 of the SUN paper on SmolLM2: accuracy with a 4-bit shared decoder (`python -m ...smollm2.quantized`).

    __main__.py  the command line and its report
    tunings.py   the modules that the rows need, each tuned by `sun train`
    recipes.py   their recipes

Belongs here: the rows of that table on a real pre-trained model. Does not belong here: the same table on the demo's
small model (`bench/training/quantized.py`, whose cells and grids this one shares). Open `tunings.py` first.
"""
