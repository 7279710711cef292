"""Peers: SGLang servers without a router, which a benchmark starts beside the systems of topology files.

`peer_file.py` reads a peer file and plans its servers; open it first. `__main__.py` runs them, as `sun launch` runs a
topology. Not here: how servers are planned and supervised (`sun_sglang/launch/`).
"""
