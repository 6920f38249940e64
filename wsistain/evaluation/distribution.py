"""Distances between two sets of feature vectors: FID and KID. Numpy only."""

import numpy as np
from numpy.typing import NDArray

Features = NDArray[np.floating]

ASP_BATCH = 50


def frechet_distance(a: Features, b: Features) -> float:
    """Frechet distance of the Gaussians fitted to two sets of features, >= 0 (FID for Inception's pooled features).

    a, b : float (n, d) and (m, d), at least 2 vectors each.

    |mean_a - mean_b|^2 + tr(C_a) + tr(C_b) - 2 tr((C_a C_b)^1/2), covariances with n - 1. The last trace is computed
    as the sum of singular values of the product of the centred sets, which equals the trace of the matrix root that
    pytorch-fid takes and stays exact where its covariances are singular (fewer images than dimensions).

    Source: Heusel et al. 2017.
    """
    if len(a) < 2 or len(b) < 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"wanted two sets of at least 2 vectors of one length; found {a.shape} and {b.shape}")
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    mean = x.mean(axis=0) - y.mean(axis=0)
    x = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    y = (y - y.mean(axis=0)) / np.sqrt(len(y) - 1)
    if min(len(x), len(y)) > x.shape[1]:  # the smaller of two equivalent products
        x, y = np.asarray(np.linalg.qr(x, mode="r")), np.asarray(np.linalg.qr(y, mode="r"))
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return max(0.0, float(mean @ mean + (x**2).sum() + (y**2).sum() - 2 * root))


def squared_mmd(a: Features, b: Features) -> float:
    """Unbiased squared maximum mean discrepancy under the kernel (x.y / d + 1)^3; can be slightly negative.

    a, b : float (n, d) and (m, d), at least 2 vectors each.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    n, m, d = len(x), len(y), x.shape[1]
    xx, yy, xy = ((p @ q.T / d + 1) ** 3 for p, q in ((x, x), (y, y), (x, y)))
    own = (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1))
    return float(own - 2 * xy.mean())


def kernel_distance(
    real: Features, fake: Features, *, subsets: int = 100, subset_size: int = 100, seed: int = 0
) -> tuple[float, float]:
    """Mean and standard deviation over random subsets of the squared MMD (KID; not multiplied by 1000).

    real, fake  : float (n, d) and (m, d), at least 2 vectors each.
    subset_size : vectors a subset, drawn without replacement; at most the smaller set.

    Source: Binkowski et al. 2018. The +- of published tables is this standard deviation, not an error of the mean.
    """
    size = min(subset_size, len(real), len(fake))
    if size < 2:
        raise ValueError(f"wanted at least 2 vectors a set; found {len(real)} and {len(fake)}")
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(subsets):
        x = real[rng.choice(len(real), size, replace=False)]
        y = fake[rng.choice(len(fake), size, replace=False)]
        values.append(squared_mmd(x, y))
    return float(np.mean(values)), float(np.std(values))


def asp_subset(features: Features) -> Features:
    """The vectors that ASP's KID script uses: whole batches of 50, the remainder dropped (all, when fewer than 50)."""
    n = len(features)
    return features if n < ASP_BATCH else features[: n // ASP_BATCH * ASP_BATCH]
