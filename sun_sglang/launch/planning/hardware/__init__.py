"""What the machine has: cores, memory, GPUs, RDMA devices and transfer packages. Read without torch and without CUDA.

Start with `machine.py`. Which worker gets which GPU is decided in `../gpu_assignment.py`.
"""
