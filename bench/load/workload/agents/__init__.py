"""Agent workloads: sessions of several models in turn over one context that grows.

    workflow     the calls of a session, and the patterns `react` and `reflexion`; open this first
    session      one session: the request of each of its calls
    plan         all sessions: when they arrive, and which tasks their agents have

Does not belong here: sending them (`drive/`).
"""
