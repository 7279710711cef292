"""From a topology to a plan."""
