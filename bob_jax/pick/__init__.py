"""Which backbone for these images? From a folder to an answer with its uncertainty, within a time budget."""
