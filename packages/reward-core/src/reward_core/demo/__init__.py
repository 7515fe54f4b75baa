"""A demo without downloads: the bundled tiny model ranks generated images."""
