"""Modules of the script. "Reload UI" reruns scripts/ but keeps them."""
