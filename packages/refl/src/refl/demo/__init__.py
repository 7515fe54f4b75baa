"""The bundled tiny pipeline, and a demo run that measures whether fine-tuning improves its images."""
