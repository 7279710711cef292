"""Read a model directory: the identity of its workers, its KV format, its tokenizer and its weights.

Belongs here: facts that follow from the files of a checkpoint and from SGLang's flags, without torch. Does not belong
here: the comparison of two identities (`contracts/kv_compatibility.py`), and the writing of a checkpoint
(`train/checkpoint.py`). Open `identity.py` first: it puts the parts together. `adapter/` reads LoRA adapters.
"""
