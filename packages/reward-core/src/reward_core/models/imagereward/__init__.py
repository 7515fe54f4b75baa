"""ImageReward and models like it: a reward head on BLIP."""
