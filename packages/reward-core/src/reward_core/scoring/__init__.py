"""Scoring methods that every model shares: from prompts and images to rewards."""
