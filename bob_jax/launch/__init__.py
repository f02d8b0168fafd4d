"""How cells are run: one after the other in this process (and its peers on other hosts)."""
