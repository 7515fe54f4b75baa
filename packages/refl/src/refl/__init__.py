"""Fine-tunes text-to-image diffusion models against a reward."""

__version__ = "1.0.0"
