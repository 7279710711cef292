"""From a dataset to batches of token ids."""
