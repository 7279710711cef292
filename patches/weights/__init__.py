"""Hooks that serve 4-bit weights on a CPU: SGLang's compressed-tensors scheme W4A16 with torch's own kernels.

    schemes.py      SGLang accepts the scheme without a GPU
    dtypes.py       SGLang accepts float32 activations with it
    load.py         prepares the weights after they are loaded
    apply.py        multiplies
    int4_layer.py   the prepared layer, and the choice of the way to multiply; no hook

Open `int4_layer.py` first.
"""
