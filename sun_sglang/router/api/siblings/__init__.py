"""The other processes of one router, which share its port.

Belongs here: sending a client's request to every process, and combining their replies. First file:
`sibling_processes.py` sends; `merging.py` combines reports and metrics, and is pure.
"""
