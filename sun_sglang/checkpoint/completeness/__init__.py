"""Check that a checkpoint holds every tensor that its architecture needs, from headers and index, without weights.

Belongs here: the list of stored tensors (`stored.py`), the list of needed tensors (`needed.py`), and their comparison
(`comparison.py`). Does not belong here: the values of weights (`checkpoint/weights.py`). Open `require_complete.py`
first.
"""
