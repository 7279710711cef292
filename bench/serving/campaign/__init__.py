"""All runs of a benchmark: systems in turn, over the points of a grid and over repetitions.

`campaign.py` goes through them; open it first. `grid.py` has the points and the order of the systems, `caches.py` makes
the prefix caches equal before each run, `rate_search.py` decides about the next rate of `--find-max-rate`, `record.py`
keeps what was measured, `resume.py` continues an earlier file, and `session.py` is the event loop that Ctrl-C ends with
a result. Not here: one run (`../run.py`), and how a system is started (`../systems/`).
"""
