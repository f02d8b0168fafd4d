"""Who is trained on and who is judged: an order of the images and folds of it, both stratified by class.

Copies of one image are always in the same fold: nobody is judged on an image that was learned by heart.
"""

import numpy as np

FOLDS = 5
ALWAYS = -1  # of an image that every fold learns from and none judges: the only one of its class


def order(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """The images in an order of which every beginning is stratified: first two of each class, then by its share.

    Args:
        labels: [N] int; -1 where there are none.
        seed: which come first.

    Returns:
        [N] positions.
    """
    generator = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
        place[members[:2]] = (-1, 0)[: len(members)]
    return np.lexsort((generator.permutation(len(labels)), place))


def assign(labels: np.ndarray, groups: np.ndarray, seed: int = 0) -> np.ndarray:
    """The fold of each image, as many of each class in one as in another.

    Five folds, or as many as half of the classes have images, but at least two.

    Args:
        labels: [N] int.
        groups: [N] int; images of one group are copies and share a fold.
        seed: which image goes where.

    Returns:
        [N] int from 0, `ALWAYS` for the only image (or the copies of the only one) of a class.
    """
    generator = np.random.default_rng(seed)
    _, first, index = np.unique(groups, return_index=True, return_inverse=True)  # copies follow the first of them
    kept = labels[first]
    sizes = np.unique(kept, return_counts=True)[1]
    count = int(np.clip(np.median(sizes[sizes > 1]) if (sizes > 1).any() else 2, 2, FOLDS))
    fold = np.empty(len(first), np.int64)
    start = 0
    for label, size in zip(*np.unique(kept, return_counts=True), strict=True):
        members = generator.permutation(np.flatnonzero(kept == label))
        fold[members] = (start + np.arange(size)) % count if size > 1 else ALWAYS
        start += size  # small classes take turns, so that all folds are of one size
    found = fold[index.reshape(-1)]
    names, counts = np.unique(labels, return_counts=True)
    found[np.isin(labels, names[counts == 1])] = ALWAYS  # also where it is a copy of an image of another class
    return found


def repeats(images: int) -> int:
    """How often the folds are drawn anew: few images are judged several times, so that chance of the folds averages."""
    return int(np.clip(np.ceil(200 / images), 1, 5))
