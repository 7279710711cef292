"""Figures and tables of results of `sun bench`.

Belongs here: those that the documentation shows. Does not belong here: the page of `sun bench --report`
(`bench/serving/report/`), which shows any result. Open `numbers.py` first.
"""
