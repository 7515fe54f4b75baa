"""Files from the Hugging Face Hub and from plain addresses, and uploads."""
