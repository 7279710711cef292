"""The systems that a benchmark measures: one that runs, or several that are started in turn.

`system.py` is what a campaign needs of each. Not here: where the requests of a started system go (`../targets/`).
"""
