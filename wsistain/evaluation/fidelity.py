"""Full-reference metrics of one picture pair, numpy only: PSNR, SSIM, CSS, VIF, histogram and gray correlation.

Pictures are uint8 (h, w, 3) unless said. Each function states the convention that published tables use; windowed
metrics run over strips that stay in the cache. uint8 window sums are exact integers.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

RGB = NDArray[np.uint8]
Plane = NDArray[np.float32]

STRIP = 64
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
FLOAT_RANGE = 510.0
"""What scikit-image takes for the range of float pictures of 0..1 when nobody says it: -1..1, twice their own."""


def _same_shape(a: NDArray[Any], b: NDArray[Any]) -> None:
    if a.shape != b.shape:
        raise ValueError(f"pictures of one size are compared; found {a.shape} and {b.shape}")


def gray601(rgb: RGB) -> NDArray[np.uint8]:
    """Gray of ITU-R BT.601 (.299, .587, .114) as OpenCV rounds it (15-bit weights), uint8 (h, w)."""
    gray = rgb[..., 0] * np.int32(9798)
    gray += rgb[..., 1] * np.int32(19235)
    gray += rgb[..., 2] * np.int32(3735)
    gray += 1 << 14
    gray >>= 15
    return gray.astype(np.uint8)


def psnr(a: RGB, b: RGB) -> float:
    """Peak signal-to-noise ratio, dB: 10 log10(255^2 / MSE over all channels); infinity for equal pictures.

    As `skimage.metrics.peak_signal_noise_ratio` with data_range 255.
    """
    _same_shape(a, b)
    total = 0
    for y in range(0, len(a), STRIP):
        step = a[y : y + STRIP].astype(np.int32) - b[y : y + STRIP]
        total += int(np.einsum("ijk,ijk->", step, step, dtype=np.int64))
    return float(10 * np.log10(255**2 * a.size / total)) if total else float("inf")


def _box(x: NDArray[np.int32], window: int, distance: int) -> NDArray[np.int32]:
    """Sums over window x window of (h, w * distance) int32, valid part; columns lie `distance` elements apart."""
    for axis, step in ((0, 1), (1, distance)):
        run, have, done = x, 1, 0
        result: NDArray[np.int32] | None = None
        length = x.shape[axis] - (window - 1) * step
        remaining = window
        while remaining:
            if remaining & 1:
                part = _shift(run, axis, done * step, length)
                result = part if result is None else result + part
                done += have
            remaining >>= 1
            if remaining:
                size = run.shape[axis] - have * step
                run = _shift(run, axis, 0, size) + _shift(run, axis, have * step, size)
                have *= 2
        assert result is not None  # a window has at least one pixel
        x = result
    return x


def _shift(x: NDArray[Any], axis: int, start: int, length: int) -> NDArray[Any]:
    return x[start : start + length] if axis == 0 else x[:, start : start + length]


def _strips(height: int, window: int) -> Iterator[tuple[int, int]]:
    """Row ranges whose valid parts tile the valid part of the whole."""
    valid = height - window + 1
    for y in range(0, valid, STRIP):
        yield y, min(y + STRIP, valid) + window - 1


def _uniform(
    a: RGB, b: RGB, window: int, *, sample: bool, ranges: Sequence[float] = (255.0,)
) -> list[tuple[float, float]]:
    """Mean SSIM and mean contrast-structure part over a uniform window, valid region, all channels, for each range."""
    _same_shape(a, b)
    if a.ndim != 3 or a.shape[2] != 3 or a.dtype != np.uint8 or b.dtype != np.uint8:
        raise ValueError(f"wanted uint8 (h, w, 3); found {a.dtype} {a.shape} and {b.dtype} {b.shape}")
    if min(a.shape[:2]) < window or window > 11:
        raise ValueError(f"a window of {window} px (at most 11) does not fit a picture of {a.shape[:2]}")
    n = window * window
    norm = np.float32(1 / (n * (n - 1) if sample else n * n))
    sums = np.zeros((len(ranges), 2))
    # Variances in whole numbers, exact: with a window of 11 px, 121 * 121 * 255 * 255 is still below 2 ** 31.
    for top, bottom in _strips(a.shape[0], window):
        x = a[top:bottom].reshape(bottom - top, -1).astype(np.int32)
        y = b[top:bottom].reshape(bottom - top, -1).astype(np.int32)
        sx, sy = _box(x, window, 3), _box(y, window, 3)
        sxx, syy, sxy = _box(x * x, window, 3), _box(y * y, window, 3), _box(x * y, window, 3)
        cov = n * sxy
        cov -= sx * sy
        var = n * sxx
        var -= sx * sx
        other = n * syy
        other -= sy * sy
        total_var = var.astype(np.float32)
        total_var += other
        total_var *= norm
        twice_cov = cov.astype(np.float32)
        twice_cov *= 2 * norm
        mx, my = sx.astype(np.float32) * np.float32(1 / n), sy.astype(np.float32) * np.float32(1 / n)
        means, squares = 2 * mx * my, mx * mx + my * my
        for k, data_range in enumerate(ranges):
            c1, c2 = (np.float32((share * data_range) ** 2) for share in (0.01, 0.03))
            cs = (twice_cov + c2) / (total_var + c2)
            sums[k, 1] += cs.sum(dtype=np.float64)
            cs *= means + c1
            cs /= squares + c1
            sums[k, 0] += cs.sum(dtype=np.float64)
    sums /= 3 * (a.shape[0] - window + 1) * (a.shape[1] - window + 1)
    return [(float(whole), float(structure)) for whole, structure in sums]


def ssim(a: RGB, b: RGB) -> float:
    """Structural similarity as in the literature of this field: window 7 uniform, sample covariance, RGB, range 255.

    As `skimage.metrics.structural_similarity(a, b, channel_axis=2, data_range=255)` on uint8.
    """
    return _uniform(a, b, 7, sample=True)[0][0]


def ssim_both_ranges(a: RGB, b: RGB) -> tuple[float, float]:
    """`ssim`, and the same with the range that scikit-image takes for floats: twice their own, so 0.1 to 0.2 higher.

    The second as `structural_similarity(a / 255, b / 255, channel_axis=2, data_range=2)`; tables with values of 0.3 and
    more on weak pairs were most likely made so.
    """
    (own, _), (double, _) = _uniform(a, b, 7, sample=True, ranges=(255.0, FLOAT_RANGE))
    return own, double


def css(a: RGB, b: RGB, window: int = 5) -> tuple[float, float]:
    """SSIM and contrast-structure similarity (CSS) of a uniform window, valid region, mean of channels.

    The two outputs of sewar's `ssim(a, b, ws=window)`; CSS = (2 cov + C2) / (var_a + var_b + C2) with
    C2 = (.03 x 255)^2 and population moments. Tables (PC-StainGAN, ATST-Net) use the second with window 5.
    """
    return _uniform(a, b, window, sample=False)[0]


@lru_cache(maxsize=16)
def _gauss_taps(size: int, sigma: float) -> tuple[float, ...]:
    x = np.arange(size) - size // 2
    taps = np.exp(-(x**2) / (2 * sigma**2))
    return tuple(float(t) for t in taps / taps.sum())


def _blur(x: Plane, taps: tuple[float, ...]) -> Plane:
    """`x` float32 (h, w) under a symmetric separable filter, valid part."""
    half = len(taps) // 2
    for axis in (0, 1):
        length = x.shape[axis] - 2 * half
        y = _shift(x, axis, half, length) * np.float32(taps[half])
        pair = np.empty_like(y)
        for i in range(half):
            np.add(_shift(x, axis, i, length), _shift(x, axis, 2 * half - i, length), out=pair)
            pair *= np.float32(taps[i])
            y += pair
        x = y
    return x


def ssim_gauss(a: RGB, b: RGB) -> float:
    """Structural similarity with a Gaussian window of sigma 1.5 (11 px), population covariance, RGB, range 255.

    As `skimage.metrics.structural_similarity(..., gaussian_weights=True, sigma=1.5, use_sample_covariance=False)`;
    pytorch-msssim agrees to 7e-6; torchmetrics averages a padded border too (0.1752 where this gives 0.1733).
    """
    _same_shape(a, b)
    taps = _gauss_taps(11, 1.5)
    if min(a.shape[:2]) < len(taps):
        raise ValueError(f"a window of 11 px does not fit a picture of {a.shape[:2]}")
    total = 0.0
    for top, bottom in _strips(a.shape[0], len(taps)):
        for channel in range(3):
            x = a[top:bottom, :, channel].astype(np.float32) - 128  # variances do not change; rounding shrinks
            y = b[top:bottom, :, channel].astype(np.float32) - 128
            mx, my = _blur(x, taps), _blur(y, taps)
            cov = _blur(x * y, taps) - mx * my
            var = _blur(x * x + y * y, taps) - mx * mx - my * my
            mx += 128
            my += 128
            s = (2 * cov + np.float32(_C2)) / (var + np.float32(_C2))
            s *= (2 * mx * my + np.float32(_C1)) / (mx * mx + my * my + np.float32(_C1))
            total += float(s.sum(dtype=np.float64))
    return total / float(3 * (a.shape[0] - 10) * (a.shape[1] - 10))


def _vif_sums(reference: Plane, images: Sequence[Plane], taps: tuple[float, ...]) -> tuple[NDArray[np.float64], float]:
    """Information kept by each image and information there, of one scale (Sheikh and Bovik 2006, pixel domain)."""
    eps, noise = np.float32(1e-10), np.float32(2.0)
    kept, there = np.zeros(len(images)), 0.0
    for top, bottom in _strips(reference.shape[0], len(taps)):
        x = reference[top:bottom]
        mx = _blur(x, taps)
        var_x = np.maximum(_blur(x * x, taps) - mx * mx, 0)
        flat_x = var_x < eps
        there += float(np.log1p(np.where(flat_x, 0, var_x) / noise).sum(dtype=np.float64))
        for index, image in enumerate(images):
            y = image[top:bottom]
            my = _blur(y, taps)
            var_y = np.maximum(_blur(y * y, taps) - my * my, 0)
            cov = _blur(x * y, taps) - mx * my
            gain = cov / (var_x + eps)
            gain[flat_x | (var_y < eps) | (gain < 0)] = 0
            rest = np.maximum(var_y - gain * cov, eps)
            rest[(var_y < eps)] = eps
            kept[index] += np.log1p(gain * gain * var_x / (rest + noise)).sum(dtype=np.float64)
    return kept, there


def vif_of_many(reference: RGB, images: Sequence[RGB]) -> list[float]:
    """Visual information fidelity in the pixel domain (`vifp`) of each image, mean of channels; 1 for equal pictures.

    reference, images : uint8 (h, w, 3), at least 41 px a side; the reference's statistics are computed once.

    Four scales, Gaussian windows of 17, 9, 5, 3 px with sigma = size / 5, valid regions, every second pixel between
    scales, noise variance 2. As sewar's `vifp(reference, image)`. NaN when the reference is flat. Raises ValueError.
    """
    for image in images:
        _same_shape(reference, image)
    if min(reference.shape[:2]) < 41:
        raise ValueError(f"VIF needs at least 41 px a side; found {reference.shape[:2]}")
    values = np.zeros(len(images))
    for channel in range(3):
        x, *ys = (p[..., channel].astype(np.float32) - 128 for p in (reference, *images))
        kept, there = np.zeros(len(images)), 0.0
        for scale in range(4):
            size = 2 ** (4 - scale) + 1
            taps = _gauss_taps(size, size / 5)
            if scale:
                x, *ys = (np.ascontiguousarray(_blur(p, taps)[::2, ::2]) for p in (x, *ys))
            more_kept, more_there = _vif_sums(x, ys, taps)
            kept, there = kept + more_kept, there + more_there
        values += kept / there if there > 0 else float("nan")
    return [float(v) for v in values / 3]


def _pearson(x: NDArray[Any], y: NDArray[Any]) -> float:
    x = x - x.mean()
    y = y - y.mean()
    length = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / length if length > 0 else float("nan")


def histogram_correlation(a: RGB, b: RGB) -> float:
    """Pearson correlation of 256-bin histograms, mean of R, G, B; NaN when a histogram is flat.

    As OpenCV's `compareHist(..., HISTCMP_CORREL)` a channel.
    """
    values = []
    for channel in range(3):
        ha, hb = (np.bincount(p[..., channel].ravel(), minlength=256).astype(float) for p in (a, b))
        values.append(_pearson(ha, hb))
    return float(np.mean(values))


def gray_correlation(a: RGB, b: RGB) -> float:
    """Pearson correlation of the 8-bit gray (BT.601) of two pictures over pixels, -1..1 (R_c); NaN when one is flat."""
    _same_shape(a, b)
    x, y = gray601(a).ravel(), gray601(b).ravel()
    n = x.size
    xf, yf = x.astype(np.float32), y.astype(np.float32)
    xf -= np.float32(x.mean())
    yf -= np.float32(y.mean())
    xx, yy, xy = (float(np.einsum("i,i->", p, q, dtype=np.float64)) for p, q in ((xf, xf), (yf, yf), (xf, yf)))
    mx, my = float(xf.mean(dtype=np.float64)), float(yf.mean(dtype=np.float64))
    var = (xx - n * mx * mx) * (yy - n * my * my)
    return (xy - n * mx * my) / var**0.5 if var > 0 and x.min() < x.max() and y.min() < y.max() else float("nan")
