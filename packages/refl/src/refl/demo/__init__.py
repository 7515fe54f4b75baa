"""The bundled tiny pipeline, and a run that shows what fine-tuning against a reward does to the truth."""
