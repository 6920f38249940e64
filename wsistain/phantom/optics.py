"""From amounts of dye to pixels: Beer-Lambert with the slide's own dyes, focus, light and sensor."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from wsistain.config import PhantomVersion
from wsistain.markers import DAB, Chromogen
from wsistain.phantom.glass import MOST_BLUR_UM
from wsistain.phantom.noise import F32, draw, normal, pixel_noise, salt_of

# Optical density by channel (red, green, blue) of unit amounts. DAB: near Ruifrok and Johnston 2001; haematoxylin and
# eosin of the H&E lie between their values and the reference of Macenko et al. 2009, as scanners see more eosin in
# blue; the counterstain of the IHC is bluer, as measured with Macenko's method on real IHC (docs/phantom.md).
BASE = {
    "haematoxylin": (0.60, 0.71, 0.37),
    "eosin": (0.23, 0.83, 0.51),
    "counterstain": (0.69, 0.64, 0.32),
    "dab": (0.28, 0.55, 0.79),
    "blood": (0.10, 0.90, 0.62),
}


@dataclass(frozen=True)
class Optics:
    """How one glass looks. Vectors are unit OD by channel; amounts are gains; blur in um; glass is RGB of no tissue.

    sharpen: what the scanner adds of the difference to a picture blurred by `HALO_UM`, as most scanners do; 0 in v0.
    """

    haematoxylin: tuple[float, float, float]
    eosin: tuple[float, float, float]
    chromogen: tuple[float, float, float]
    blood: tuple[float, float, float]
    h_gain: float
    e_gain: float
    d_gain: float
    blur_um: float
    glass: tuple[float, float, float]
    noise: float
    haze: float
    sharpen: float


HALO_UM = 0.8


def draw_optics(seed: int, glass_name: str, *, chromogen: Chromogen = DAB, version: PhantomVersion = "v0") -> Optics:
    """The optics of one glass (H&E and IHC are stained and scanned apart); drawn from the seed."""
    base = {**BASE, "chromogen": BASE["dab"] if chromogen == DAB else chromogen.od}
    ids = np.arange(64, dtype=np.uint64)
    g, u = normal(ids, salt_of(seed, f"optics {glass_name}")), draw(ids, salt_of(seed, f"light {glass_name}"))

    def vector(name: str, k: int, spread: float) -> tuple[float, float, float]:
        v = np.clip(np.array(base[name]) + spread * g[k : k + 3], 0.02, None)
        v = v / np.linalg.norm(v)
        return float(v[0]), float(v[1]), float(v[2])

    top = 236 + 13 * u[0]
    return Optics(
        haematoxylin=vector("haematoxylin" if glass_name == "he" else "counterstain", 0, 0.030),
        eosin=vector("eosin", 3, 0.055),
        chromogen=vector("chromogen", 6, 0.030),
        blood=vector("blood", 9, 0.03),
        h_gain=float(np.exp(0.08 + 0.18 * g[12]) if glass_name == "he" else np.exp(-0.2 + 0.13 * g[12])),
        e_gain=float(np.exp(0.18 + 0.28 * g[13])),
        d_gain=float(np.exp(0.06 * g[14])),
        blur_um=float(0.13 + 0.17 * u[1]),
        glass=(float(top), float(top - 3 * u[2]), float(top - 1 + 4 * (u[3] - 0.5))),
        noise=float(0.8 + 0.9 * u[4]),
        haze=float(0.012 * u[5]),
        sharpen=0.0 if version == "v0" else float(0.15 + 0.65 * u[6]),
    )


def blur_margin(mpp: float, version: PhantomVersion = "v0") -> int:
    """Pixels that a blurred window needs round it."""
    widest = 0.40 if version == "v0" else 0.40 + 0.8 * MOST_BLUR_UM
    return int(np.ceil(4 * widest / mpp)) + 1


def expose(
    amounts: dict[str, F32], optics: Optics, *, mpp: float, salt: np.uint64, y: int, x: int, margin: int,
    focus: F32 | None = None, ink: tuple[F32, tuple[float, float, float]] | None = None,
) -> NDArray[np.uint8]:  # fmt: skip
    """uint8 (h, w, 3) from maps of dye (h + 2 margin, w + 2 margin); (y, x) is the window's place on the glass, px.

    focus : (h, w) um of blur besides the lens's own, at most `MOST_BLUR_UM`; ink: amount (h, w) and optical density of a pen
            on the cover glass, which is out of focus anyway.

    Light passes the tissue first and the lens after it, so intensities are blurred, not densities; the blur is a
    Gaussian of finite support and every step is local, so a pixel does not depend on the window.
    """
    vectors = {
        "haematoxylin": optics.haematoxylin, "eosin": optics.eosin, "chromogen": optics.chromogen, "blood": optics.blood
    }  # fmt: skip
    gains = {"haematoxylin": optics.h_gain, "eosin": optics.e_gain, "chromogen": optics.d_gain, "blood": 1.0}
    sigma = optics.blur_um / mpp
    shape = next(iter(amounts.values())).shape
    h, w = shape[0] - 2 * margin, shape[1] - 2 * margin
    rgb = np.empty((h, w, 3), np.float32)
    for channel in range(3):
        density = np.full(shape, np.float32(optics.haze))
        for name, amount in amounts.items():
            density += amount * np.float32(vectors[name][channel] * gains[name])
        light = np.exp(density * np.float32(-np.log(10.0)))
        rgb[..., channel] = _blurred(light, sigma, margin)
        if optics.sharpen:
            halo = _blurred(light, float(np.hypot(optics.blur_um, HALO_UM)) / mpp, margin)
            rgb[..., channel] += np.float32(optics.sharpen) * (rgb[..., channel] - halo)
            np.clip(rgb[..., channel], 0, None, out=rgb[..., channel])
        if focus is not None:
            rgb[..., channel] = _defocused(rgb[..., channel], light, focus, optics.blur_um, mpp, margin)
        if ink is not None:
            rgb[..., channel] *= np.exp(ink[0] * np.float32(-np.log(10.0) * ink[1][channel]))
    rgb *= np.array(optics.glass, np.float32)
    # Shot noise grows with the square root of the light.
    rgb += pixel_noise(salt, y, x, h, w) * (np.float32(optics.noise) * np.sqrt(rgb * np.float32(1 / 255)))
    return np.clip(rgb + np.float32(0.5), 0, 255).astype(np.uint8)


def _blurred(light: F32, sigma: float, margin: int) -> F32:
    """(h, w) blurred light from (h + 2 margin, w + 2 margin); a Gaussian that ends at three times `sigma` px."""
    h, w = light.shape[0] - 2 * margin, light.shape[1] - 2 * margin
    radius = int(np.ceil(3 * sigma))
    once = gaussian_filter1d(light, sigma, axis=0, radius=radius)[margin : margin + h]
    twice: F32 = gaussian_filter1d(once, sigma, axis=1, radius=radius)[:, margin : margin + w]
    return twice


def _defocused(sharp: F32, light: F32, focus: F32, lens_um: float, mpp: float, margin: int) -> F32:
    """(h, w) light blurred by as much as `focus` says at each pixel: between pictures of three widths, the nearest two mixed.

    sharp : (h, w) as the lens alone gives it; light: (h + 2 margin, w + 2 margin) before the lens.
    """
    seen = [sharp]
    for extra in (0.5 * MOST_BLUR_UM, MOST_BLUR_UM):
        seen.append(_blurred(light, float(np.hypot(lens_um, extra)) / mpp, margin))
    place = focus * np.float32(2 / MOST_BLUR_UM)
    near, far = np.clip(place, 0, 1), np.clip(place - 1, 0, 1)
    mixed: F32 = seen[0] + near * (seen[1] - seen[0]) + far * (seen[2] - seen[1])
    return mixed
