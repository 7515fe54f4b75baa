"""Images and numbers of the README and the docs. ``tools/make_figures.py`` runs them."""
