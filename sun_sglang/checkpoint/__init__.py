"""What a model directory holds: the identity of its workers, its KV format, its tokenizer and its weights.

Start with `identity.py`, which puts the parts together. How two identities are compared is in
`contracts/kv_compatibility.py`; how a trainer writes a checkpoint is in `train/checkpoint.py`.
"""
