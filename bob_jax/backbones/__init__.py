"""Who competes: an architecture a file, and the zoo of cards."""
