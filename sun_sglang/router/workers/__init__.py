"""Which workers exist and which pairs of them are proven."""
