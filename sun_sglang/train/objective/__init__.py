"""The two-module loss: `two_module_loss.py` computes it, for padded batches and for packed rows.

Belongs here: everything inside the forward pass. Does not belong here: batches (`data/`) and steps (`trainer/`). Open
`two_module_loss.py` first; `README.md` describes the tuning schemes.
"""
