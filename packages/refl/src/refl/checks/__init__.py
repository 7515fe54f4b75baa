"""Checks of names, paths and models on the hub, before torch is imported."""
