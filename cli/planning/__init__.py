"""`sun plan`: its flags as a load and cost models, its table and its figure."""
