"""Retrieval: how early in the ranking of a gallery the images come that a query should find.

All scores follow from the 0-based ranks of a query's positives, after its junk was taken out of the ranking. Of equal
similarities the image with the lower position in the gallery comes first. A query without positives has no score: it is
left out before. With n positives at ranks p_0 < p_1 < ... :

    ap              1/n sum_j (j + 1) / (p_j + 1)
    ap_trapezoid    1/n sum_j (j / p_j + (j + 1) / (p_j + 1)) / 2, where 0 / 0 is 1: the area under the precision-recall
                    curve by trapezoids, as Oxford, Paris, Holidays and Copydays are scored; never above `ap`
    ap@k            the terms of `ap` within the first k, divided by min(n, k) as Google Landmarks has it;
                    `ap@k_positives` divides them by n, `ap@k_hits` by those of them that there are
    rr              1 / (p_0 + 1)
    precision@k     positives within the first k, by k; `precision@k_revisited` by min(k, p_last + 1), as Revisited
                    Oxford and Paris have it
    recall@k        positives within the first k, by n
    hit@k           whether there is any; metric learning calls this Recall@k
    r_precision     recall@n
    ap@r            the terms of `ap` within the first n, by n (Musgrave et al. 2020, arXiv 2003.08505)
    micro_ap        all pairs of a query and a found image in one ranking by similarity, and the ap of that
"""

from collections.abc import Sequence

import numpy as np

from bob_jax.metrics.base import Metric, mean

CUT = 100  # of mAP@k
FIRST = (1, 5, 10)  # k of the other scores


def per_query(ranks: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """What is known of each query.

    Args:
        ranks: of each query, the 0-based ranks of its positives, ascending, junk taken out; one or more each.

    Returns:
        Arrays [Q] float64 by the names above; hit@k bool; `positives` int64, their number.

    Raises:
        ValueError: no query, one without positives, or ranks that do not ascend.
    """
    sizes = np.array([len(found) for found in ranks], np.int64)
    if not len(sizes) or sizes.min() < 1:
        raise ValueError("every query needs one positive or more: leave the others out")
    rank = np.concatenate(ranks).astype(np.float64)
    query = np.repeat(np.arange(len(sizes)), sizes)
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    order = np.arange(len(rank)) - first[query]  # j
    if rank.min() < 0 or (np.diff(rank)[np.diff(query) == 0] <= 0).any():
        raise ValueError("ranks of positives must ascend, from 0")

    def total(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(values, first)

    term = (order + 1) / (rank + 1)
    before = np.divide(order, rank, out=np.ones_like(rank), where=rank > 0)
    within, own = rank < CUT, rank < sizes[query]
    hits, cut = total(within.astype(np.float64)), total(term * within)
    outputs = {
        "positives": sizes,
        "ap": total(term) / sizes,
        "ap_trapezoid": total((before + term) / 2) / sizes,
        f"ap@{CUT}": cut / np.minimum(sizes, CUT),
        f"ap@{CUT}_positives": cut / sizes,
        f"ap@{CUT}_hits": np.divide(cut, hits, out=np.zeros_like(cut), where=hits > 0),
        "rr": 1 / (rank[first] + 1),
        "r_precision": total(own.astype(np.float64)) / sizes,
        "ap@r": total(term * own) / sizes,
    }
    last = rank[first + sizes - 1] + 1
    for k in FIRST:
        found = total((rank < k).astype(np.float64))
        outputs[f"precision@{k}"] = found / k
        # All positives may come before k: those within the first min(k, last) are those within the first k.
        outputs[f"precision@{k}_revisited"] = found / np.minimum(k, last)
        outputs[f"recall@{k}"] = found / sizes
        outputs[f"hit@{k}"] = found > 0
    return outputs


def micro_average_precision(
    weights: np.ndarray, similarity: np.ndarray, relevant: np.ndarray, positives: np.ndarray
) -> np.ndarray:
    """Average precision of all (query, image) pairs in one ranking; of equal pairs the earlier query comes first.

    Args:
        weights: [R, Q], how often each query counts.
        similarity: [Q, K] of the images found, best first; -inf where fewer than K were.
        relevant: [Q, K] bool.
        positives: [Q], of each query; those that were not found count as never found.

    Returns:
        [R].
    """
    order = np.argsort(-similarity.ravel(), kind="stable")
    order = order[np.isfinite(similarity.ravel()[order])]
    query = order // similarity.shape[1]
    hits = np.flatnonzero(relevant.ravel()[order])  # precision is needed at these pairs alone
    scores = []
    for weight in weights:  # one draw at a time: the pairs may be many
        own = weight[query[hits]]
        found, listed = np.cumsum(own), np.cumsum(weight[query])[hits]
        precision = np.divide(found, listed, out=np.zeros_like(found), where=listed > 0)
        scores.append((own * precision).sum() / (weight * positives).sum())
    return np.array(scores)


def _mean_of(name: str) -> Metric:
    return Metric((name,), mean)


METRICS: dict[str, Metric] = {
    "map": _mean_of("ap"),
    "map_trapezoid": _mean_of("ap_trapezoid"),
    f"map@{CUT}": _mean_of(f"ap@{CUT}"),
    f"map@{CUT}_positives": _mean_of(f"ap@{CUT}_positives"),
    f"map@{CUT}_hits": _mean_of(f"ap@{CUT}_hits"),
    "map@r": _mean_of("ap@r"),
    "mrr": _mean_of("rr"),
    "r_precision": _mean_of("r_precision"),
    **{
        f"{name}@{k}{end}": _mean_of(f"{name}@{k}{end}")
        for name, end in (("precision", ""), ("precision", "_revisited"), ("recall", ""), ("hit", ""))
        for k in FIRST
    },
    "micro_ap": Metric(("similarity", "relevant", "positives"), micro_average_precision),
}
