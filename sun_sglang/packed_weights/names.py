"""The names of the tensors of one quantised linear layer, see `layer.py`. Pure, without torch."""

PACKED = "weight_packed"
SCALE, SHAPE, ZERO, GROUP_OF = "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx"
PARTS = (PACKED, SCALE, SHAPE, ZERO, GROUP_OF)
