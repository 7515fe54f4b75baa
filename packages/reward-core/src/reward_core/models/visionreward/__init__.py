"""VisionReward: a reward that is a weighted checklist of yes/no questions about an image."""
