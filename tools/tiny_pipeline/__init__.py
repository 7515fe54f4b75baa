"""The parts of tools/make_tiny_pipeline.py."""
