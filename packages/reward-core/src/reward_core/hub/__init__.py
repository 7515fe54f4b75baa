"""Downloads from the Hugging Face Hub and other URLs, and uploads to the hub."""
