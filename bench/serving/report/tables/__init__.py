"""The tables of a report, as data: for the page and for a terminal. `table.py` is what a table consists of."""
