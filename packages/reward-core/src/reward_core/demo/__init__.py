"""A first run without any download: the bundled tiny model on images made on the spot."""
