"""Non-maximum suppression in plain words, for comparison."""

import numpy as np


def greedy(boxes, scores, valid, threshold, classes=None) -> list[int]:
    """Best first, equals by index; each box that overlaps no kept one of its class stays."""
    classes = np.zeros(len(boxes), int) if classes is None else classes
    kept: list[int] = []
    for j in sorted((n for n in range(len(boxes)) if valid[n]), key=lambda n: (-scores[n], n)):
        for i in kept:
            if classes[i] == classes[j] and overlap(boxes[i], boxes[j]) > np.float32(threshold):
                break
        else:
            kept.append(j)
    return kept


def overlap(a, b) -> np.float32:
    """IoU of two boxes."""
    common = max(min(a[2], b[2]) - max(a[0], b[0]), np.float32(0)) * max(
        min(a[3], b[3]) - max(a[1], b[1]), np.float32(0)
    )
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / union if union > 0 else np.float32(0)
