"""Modules of tools/make_tiny_pipeline.py."""
