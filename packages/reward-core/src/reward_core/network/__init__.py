"""The neural network: encoders, attention, reward head, and their sizes."""
