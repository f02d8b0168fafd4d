"""The competitors as data: a file of cards for each family. `zoo.py` gathers them."""
