"""Scores that several critics share, for their accuracy on people no net was trained on.

Legend: N samples, E embedding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata


def roc_area(same: NDArray, other: NDArray) -> float:
    """Probability that a random `same` score exceeds a random `other` score (area under the ROC curve)."""
    ranks = rankdata(np.concatenate([same, other]))
    return float((ranks[: len(same)].sum() - len(same) * (len(same) + 1) / 2) / (len(same) * len(other)))


def pearson(a: NDArray, b: NDArray) -> float:
    """Linear correlation of two vectors."""
    return float(np.corrcoef(a, b)[0, 1])


def rank_correlation(a: NDArray, b: NDArray) -> float:
    """Spearman's correlation of two vectors."""
    return pearson(rankdata(a), rankdata(b))


def verification(embedding: NDArray, label: NDArray) -> dict[str, float]:
    """Unit embeddings (N,E) and person labels (N,) -> how well cosine tells same from other people."""
    cosine = embedding @ embedding.T
    upper = np.triu(np.ones_like(cosine, bool), 1)
    same = label[:, None] == label[None]
    a, b = cosine[upper & same], cosine[upper & ~same]
    grid = np.linspace(-1, 1, 400)
    accept, reject = (a[:, None] >= grid).mean(0), (b[:, None] < grid).mean(0)
    equal = int(np.abs(accept - reject).argmin())
    np.fill_diagonal(cosine, -2)
    return {
        "auc": round(roc_area(a, b), 4),
        "equal_error_rate": round(1 - float(accept[equal] + reject[equal]) / 2, 4),
        "cosine_same": round(float(a.mean()), 4),
        "cosine_other": round(float(b.mean()), 4),
        "nearest_is_same": round(float((label[cosine.argmax(1)] == label).mean()), 4),
        "people": float(len(np.unique(label))),
    }
