"""A panel of a figure as SVG, drawn with matplotlib (the extra `bench`). `palette.py` has the colours and shapes."""
