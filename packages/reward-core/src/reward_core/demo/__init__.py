"""A first run without any download: the bundled tiny model on pictures made on the spot."""
