"""What a run leaves for readers: images of validations, curves and a page."""
