"""The figures of a report, as data. `figure.py` is what a figure consists of, `registry.py` the list of them.

To add a figure, write a function from a study to a `Figure`, and add it to the list.
"""
