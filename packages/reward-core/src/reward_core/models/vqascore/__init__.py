"""VQAScore (CLIP-FlanT5): how surely a model answers that an image shows a text."""
