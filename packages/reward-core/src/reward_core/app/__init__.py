"""``reward-core app``: a web page that ranks images (extra: ``app``, gradio)."""

from .models import Models
from .page import build_page
from .serve import Limits, serve

__all__ = ["Limits", "Models", "build_page", "serve"]
