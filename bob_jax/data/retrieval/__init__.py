"""Retrieval: queries, a gallery, and what is to be found; readers of the official formats of ground truth.

One file per kind of ground truth. `rules` makes relevance of labels, `sources` holds the images, `task` the data set.
"""
