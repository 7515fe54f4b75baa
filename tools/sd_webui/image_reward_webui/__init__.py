"""Modules of the script. They are imported once: "Reload UI" reruns scripts/ but keeps these modules."""
