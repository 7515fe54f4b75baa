"""VLM judges: scores from the answers of vision-language models."""
