"""Inputs of the network: pixels from images and token ids from prompts."""
