"""Places: the machines on which workers run.

Here: the protocols of a place (`place.py`, open it first), the command of one start (`command.py`), and one package for
each place (`local/`). Not here: which worker runs with which flags (`launch/planning`), and when it is started again
(`launch/supervision`). README.md describes what a place decides and how to add one.
"""
