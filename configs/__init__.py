"""What is run: each file is one benchmark, and `get_config(arg)` gives its grid as data."""
