"""Published."""
MPS_MODELS = {}
