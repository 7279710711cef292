"""Restart the workers of a pool one after the other, while the others serve.

The launcher runs it, so that a terminal that closes leaves nothing half done. `targets.py` decides which workers are
meant and `service.py` what the router's report says about them, both pure; `operation.py` takes the steps of each
worker; `restarts.py` runs one operation at a time behind the control socket (`launch/control`). `messages.py` has the
requests and the events there, `client.py` sends and reads them, and `launched.py` has the parts of a deployment that a
restart uses.
"""
