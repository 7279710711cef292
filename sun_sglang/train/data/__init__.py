"""From a dataset to batches of token ids.

Belongs here: reading examples (`rows/`), their token ids, padding, packing and the order of examples. Does not belong
here: anything that runs a model. Open `dataset.py` first.
"""
