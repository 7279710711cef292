"""The requests to both workers. Pure.

Belongs here: the bodies of the legs, their rooms and ids, and the namespace that decides whose KV they may reuse. First
file: `leg_bodies.py` makes both bodies for a pair; `pair_request.py` is the part that does not depend on the pair;
`cache_namespace.py` names who made the KV.
"""
