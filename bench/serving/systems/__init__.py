"""The systems that a benchmark measures: one that runs, or several that are started in turn.

`system.py` is what a campaign needs of each; open it first. `files.py` makes the systems of files, `topology_system.py`
and `peer_system.py` start them with `launcher.py`, a launcher in a process of its own. `facts.py` refuses what cannot
be compared, `cores.py` binds processes to cores. Not here: where the requests of a started system go (`../targets/`).
"""
