"""Data: the catalogue, sources, transforms on host and device, and the loader."""
