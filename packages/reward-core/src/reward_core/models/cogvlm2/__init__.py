"""CogVLM2 as a model that answers yes/no questions about images, as in VisionReward (arXiv 2412.21059)."""
