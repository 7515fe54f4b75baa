"""A page in the browser that ranks images: ``reward-core app``. Needs the extra ``app`` (gradio)."""

from .models import Models
from .page import build_page
from .serve import Limits, serve

__all__ = ["Limits", "Models", "build_page", "serve"]
