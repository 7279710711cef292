"""`make gpu-check`: proves on a machine with GPUs what no machine without one can.

Start at `__main__`. `stages/` holds one stage a file; a stage uses what the other files offer: random checkpoints
(`checkpoints`), a running deployment (`deployment`), the expected answers (`reference`) and facts about the machine
(`machine`). Nothing here needs a model hub or pytest.
"""
