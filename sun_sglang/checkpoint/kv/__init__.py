"""The KV that a checkpoint makes: its layout, its storage format and its size.

Belongs here: facts of KV that follow from `config.json`, scales and SGLang's flags. Does not belong here: whether one
worker's KV fits another (`contracts/kv_compatibility.py`). Open `format.py` first.
"""
