"""ImageReward and its relatives: a reward head on BLIP."""
