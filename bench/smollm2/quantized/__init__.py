"""Table 3 of the SUN paper on SmolLM2: accuracy with a 4-bit shared decoder.

    __main__.py  the command line and its report
    rows.py      the modules of each row, and the tunings that the rows need
    recipes.py   the recipe of a tuning
    tunings.py   does the tunings, each by `sun train`
    scores.py    scores the rows

Belongs here: the rows of that table on a real pre-trained model. Does not belong here: the same table on the demo's
small model (`bench/training/quantized.py`, whose rows and grids this one shares). Open `rows.py` first.
"""
