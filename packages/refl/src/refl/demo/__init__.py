"""The bundled tiny pipeline, and a demo of fine-tuning it."""
