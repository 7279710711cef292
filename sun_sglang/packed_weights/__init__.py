"""Read and write weights that are packed integers: the format `pack-quantized` of compressed-tensors, in plain torch.

    names.py       the names of the tensors of one quantised linear layer
    layer.py       these tensors, and the dense weight that they stand for
    words.py       integers of 1 to 8 bits, packed into 32-bit words
    rounding.py    round a dense weight to the nearest integers, with a scale for each group
    checkpoint.py  read a quantised checkpoint as dense tensors, and write a rounded copy of a dense one
    cpu_limits.py  the layers that torch's 4-bit kernel for CPUs takes
    __main__.py    the command that rounds a checkpoint

The package needs torch and safetensors alone: neither SGLang nor `compressed_tensors`. `sun train` reads a quantised
decoder with it, and tests compare SGLang's answers with the dense weights that it computes. Belongs here: the file
format. Does not belong here: calibration (`quantize/`), and kernels (`patches/weights/`). Open `layer.py` first.
"""
