"""How the demo's models and data are made."""
