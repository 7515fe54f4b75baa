"""Files and prompts -> what the network reads."""
