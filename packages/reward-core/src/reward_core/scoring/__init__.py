"""Prompts and images in, rewards out: the methods that every scorer shares."""
