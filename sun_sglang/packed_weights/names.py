"""The names of the tensors of one quantised layer (`layer.py`), and the orders of its groups. Pure, without torch."""

PACKED = "weight_packed"
SCALE, SHAPE, ZERO, GROUP_OF = "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx"
PARTS = (PACKED, SCALE, SHAPE, ZERO, GROUP_OF)


def is_permuted(actorder: object) -> bool:
    """Return whether a value of `actorder` puts the groups in another order than that of the inputs."""
    return str(actorder).lower() in ("group", "dynamic", "true")
