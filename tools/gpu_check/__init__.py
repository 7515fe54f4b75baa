"""Stages of check_gpu.py. Each module runs as a process of its own."""
