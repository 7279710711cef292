"""The report of saved results: one HTML page, or a table for a terminal.

`study/` reads results and answers questions about their numbers, `figures/` and `tables/` and `headline.py` choose what
is shown; all of these are pure. `drawing/` turns a panel of a figure into SVG, `page/` everything into one file.
"""
