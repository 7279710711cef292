"""What a model directory holds: its identity, its KV format, its tokenizer, and what it was tuned for."""
