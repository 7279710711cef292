"""The models of the GPU check: random checkpoints, quantised copies of them, and the answers that they should give.

Open `checkpoints.py` first. Not here: code that starts workers.
"""
