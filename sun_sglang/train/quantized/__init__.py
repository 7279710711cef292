"""A frozen decode module with packed low-bit weights, through which gradients reach the prefill module (QSUN).

    load_quantized.py  a checkpoint as transformers' model, with `PackedLinear` in place of its quantised layers
    packed_linear.py   one linear layer: packed weights, and a backward pass to its input
    supported.py       the quantizations that training takes

Belongs here: computing with packed weights in training. Does not belong here: the file format (`packed_weights/`),
and making a quantised checkpoint (`sun quantize`). Open `packed_linear.py` first.
"""
