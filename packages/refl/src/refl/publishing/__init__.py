"""The result of a run: model folder, LoRA files, card and upload."""
