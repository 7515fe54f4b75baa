"""Published."""
SIGLIP_MODELS = {}
