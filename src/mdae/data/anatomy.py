"""Made-up brains on real anatomy: the ICBM152 tissue maps, deformed, coloured, and with or without lesions.

The template has no skull, so scans are those of a brain on a background of exactly 0.
Everything about a subject but its lesions is drawn without knowing its label, from streams of random numbers of its
own: two subjects of the same seed and number that differ in their label differ in the voxels of the lesions alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

from mdae.data.resample import AxisMap, resample
from mdae.seeding import numpy_generator

# Intensities of CSF, grey matter, white matter and lesion, white matter being about 1 in T1w. Lesions look like CSF
# in T2w and between CSF and grey matter in T1w: their place gives them away; in FLAIR nothing is as bright.
CONTRASTS: dict[str, tuple[float, float, float, float]] = {
    "T1w": (0.25, 0.65, 0.95, 0.45),
    "T2w": (1.10, 0.62, 0.45, 1.08),
    "FLAIR": (0.20, 0.72, 0.58, 0.86),
}
TISSUE_SPREAD = 0.07  # relative, of each tissue's mean between subjects and contrasts
TEXTURE, TEXTURE_MM = 0.03, 4.0  # within tissue: relative amplitude, and how smooth
BIAS, BIAS_MM = 0.08, 60.0  # the coil's shading: log amplitude, and how smooth
NOISE = (0.02, 0.05)  # Rician, between scans, unless another is wanted
WARP_MM = 2.5  # standard deviation of the displacements, unless others are wanted
TISSUES = {1: "grey matter", 2: "white matter", 3: "deep grey matter", 4: "ventricles"}
DEEP_MM = (
    (-31, 31),
    (-32, 22),
    (-8, 22),
)  # MNI152's box around basal ganglia and thalamus: grey matter in it is deep
INNER_MM = ((-30, 30), (-46, 36), (-6, 30))  # around the ventricles: the largest fluid in it
CONTROL_MM = 45.0  # between the points that displace freely
ROOM_BELOW = (
    14  # slices of 1 mm taken from the empty top: the template's brainstem ends at its grid's lower face
)
FAINT = 0.2  # a weaker lesion is none: what is left is the mask, whole
INTENSITY = 1000.0  # units of the stored integers


@dataclass(frozen=True)
class Template:
    """Tissue maps in [0, 1], (D, H, W) float32 on the wanted grid, and where lesions tend to lie."""

    gm: np.ndarray
    wm: np.ndarray
    brain: np.ndarray
    lesion_prior: np.ndarray  # flat, sums to 1
    regions: np.ndarray  # uint8: 3 where grey matter is deep, 4 where fluid is the ventricles', as in TISSUES
    affine: np.ndarray
    spacing_mm: float


@lru_cache(maxsize=1)
def load_template(spacing_mm: float) -> Template:
    """The ICBM152 2009 maps that nilearn ships, at any spacing."""
    from nilearn import datasets  # slow to import

    images = [
        loader(resolution=1)
        for loader in (
            datasets.load_mni152_gm_template,
            datasets.load_mni152_wm_template,
            datasets.load_mni152_template,
        )
    ]
    affine = images[0].affine
    size = images[0].shape
    x, y, z = (
        AxisMap(
            n, round(n / spacing_mm), spacing_mm, (n - 1) / 2 - spacing_mm * (round(n / spacing_mm) - 1) / 2
        )
        for n in size
    )
    gm, wm, t1 = (
        resample(np.roll(np.asarray(image.dataobj, dtype=np.float32), ROOM_BELOW, axis=2), (x, y, z), order=1)
        for image in images
    )
    brain = ndimage.binary_fill_holes(t1 > 0.1 * t1.max()).astype(np.float32)
    grid = affine @ np.array(
        [
            [spacing_mm, 0, 0, x.offset],
            [0, spacing_mm, 0, y.offset],
            [0, 0, spacing_mm, z.offset - ROOM_BELOW],
            [0, 0, 0, 1.0],
        ]
    )
    return Template(
        gm=gm.clip(0, 1),
        wm=wm.clip(0, 1),
        brain=brain,
        lesion_prior=_lesion_prior(gm, wm, brain, spacing_mm),
        regions=_regions(brain - gm - wm, grid, spacing_mm),
        affine=grid,
        spacing_mm=spacing_mm,
    )


def _regions(fluid: np.ndarray, affine: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Around which grey matter is deep and which fluid is the ventricles'."""

    def inside(box: tuple[tuple[int, int], ...]) -> np.ndarray:
        places = [affine[axis, axis] * np.arange(n) + affine[axis, 3] for axis, n in enumerate(fluid.shape)]
        kept = [(low <= own) & (own <= high) for own, (low, high) in zip(places, box, strict=True)]
        return np.asarray(kept[0][:, None, None] & kept[1][None, :, None] & kept[2])

    regions = np.where(inside(DEEP_MM), 3, 0).astype(np.uint8)
    parts, count = ndimage.label((fluid > 0.5) & inside(INNER_MM))
    if count:
        largest = parts == np.bincount(parts.ravel())[1:].argmax() + 1
        regions[ndimage.binary_dilation(largest, iterations=max(1, round(4 / spacing_mm)))] = 4
    return regions


def _lesion_prior(gm: np.ndarray, wm: np.ndarray, brain: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Deep white matter, the more likely the closer to the ventricles."""
    inner = ndimage.binary_erosion(brain > 0.5, iterations=max(1, round(12 / spacing_mm)))
    ventricles = inner & (gm + wm < 0.3)
    distance = ndimage.distance_transform_edt(~ventricles) * spacing_mm
    prior = np.where(inner & (wm > 0.6), np.exp(-distance / 8.0), 0.0).ravel()
    return np.asarray(prior / prior.sum())


@dataclass(frozen=True)
class Lesions:
    """Lesions in template space: their strength in [0, 1], (D, H, W), and how many."""

    strength: np.ndarray
    number: int


def draw_lesions(template: Template, seed: int, subject: int) -> Lesions:
    """Eight to 32 irregular blobs of about 5 to 18 mm in white matter."""
    rng = numpy_generator(seed, "lesions", subject)
    number = int(rng.integers(8, 33))
    strength = np.zeros(template.gm.shape, dtype=np.float32)
    centres = rng.choice(template.lesion_prior.size, size=number, p=template.lesion_prior)
    for centre in centres:
        radius = rng.uniform(2.5, 9.0, size=3) / template.spacing_mm
        _add_blob(strength, np.unravel_index(centre, strength.shape), radius, rng.uniform(0.5, 1.0), rng)
    return Lesions(strength * (template.wm > 0.2), number)


def _add_blob(
    volume: np.ndarray, centre: tuple[np.intp, ...], radius: np.ndarray, peak: float, rng: np.random.Generator
) -> None:
    """A bumpy ellipsoid with a soft edge, the stronger of it and what is there."""
    reach = np.ceil(1.6 * radius).astype(int) + 1
    low = [max(0, int(c) - r) for c, r in zip(centre, reach, strict=True)]
    high = [min(n, int(c) + r + 1) for n, c, r in zip(volume.shape, centre, reach, strict=True)]
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    axes = np.ogrid[box]
    distance = np.sqrt(sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radius, strict=True)))
    bumps = ndimage.gaussian_filter(rng.standard_normal(distance.shape), 1.0)
    distance = distance * (1 + 0.6 * bumps)
    blob = peak * np.clip((1.15 - distance) / 0.3, 0, 1)
    volume[box] = np.maximum(volume[box], blob)


@dataclass(frozen=True)
class Anatomy:
    """A subject's tissues in its own space: CSF, grey and white matter as shares, (3, D, H, W); lesion strength."""

    tissues: np.ndarray
    lesion: np.ndarray | None  # 0 where there is none, else between FAINT and 1
    regions: np.ndarray  # uint8, as the template's

    @property
    def labels(self) -> np.ndarray:
        """The tissue of each voxel by `TISSUES`, (D, H, W) uint8: that with the largest share; 0 for fluid outside of
        the ventricles and what is no brain."""
        most = np.where(self.tissues.sum(axis=0) > 0, self.tissues.argmax(axis=0), -1)
        labels = np.zeros(most.shape, dtype=np.uint8)
        for tissue, label, region in ((1, 1, None), (2, 2, None), (1, 3, 3), (0, 4, 4)):
            labels[(most == tissue) & (True if region is None else self.regions == region)] = label
        return labels


def draw_anatomy(
    template: Template, seed: int, subject: int, lesions: Lesions | None, warp_mm: float = WARP_MM
) -> Anatomy:
    """Deform the template, by displacements of a standard deviation of `warp_mm`; the lesions are carried along."""
    rng = numpy_generator(seed, "anatomy", subject)
    coordinates = _deformation(template, rng, warp_mm)
    maps = [template.gm, template.wm, template.brain]
    gm, wm, brain = (_warp(volume, coordinates) for volume in maps)
    csf = np.clip(brain - gm - wm, 0, 1)
    tissues = np.stack([csf, gm, wm]) * (brain > 0.5)
    lesion = None if lesions is None else _warp(lesions.strength, coordinates) * (brain > 0.5)
    if lesion is not None:
        lesion[lesion < FAINT] = 0
    regions = ndimage.map_coordinates(template.regions, coordinates, order=0, mode="constant")
    return Anatomy(tissues.astype(np.float32), lesion, regions)


def _warp(volume: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    out = ndimage.map_coordinates(volume, coordinates, order=1, mode="constant", output=np.float32)
    return np.asarray(out)


def _deformation(template: Template, rng: np.random.Generator, warp_mm: float) -> np.ndarray:
    """Where each voxel's tissue comes from: a small affine and a smooth displacement, (3, D, H, W) voxels."""
    shape = template.gm.shape
    angles = rng.normal(0, np.deg2rad(3.0), size=3)
    skew = np.array([[0, -angles[2], angles[1]], [angles[2], 0, -angles[0]], [-angles[1], angles[0], 0]])
    matrix = (np.eye(3) + skew) @ np.diag(rng.uniform(0.93, 1.07, size=3))
    centre = (np.array(shape) - 1) / 2
    shift = rng.normal(0, 2.0 / template.spacing_mm, size=3)
    grid = np.indices(shape, dtype=np.float32) - centre[:, None, None, None].astype(np.float32)
    coordinates = np.tensordot(matrix.astype(np.float32), grid, axes=1)
    coordinates += (centre + shift)[:, None, None, None].astype(np.float32)
    for axis in range(3):
        coordinates[axis] += smooth_field(shape, CONTROL_MM / template.spacing_mm, rng) * (
            warp_mm / template.spacing_mm
        )
    return coordinates


def smooth_field(shape: tuple[int, ...], step: float, rng: np.random.Generator) -> np.ndarray:
    """Standard normal values on a grid `step` voxels wide, splined to every voxel."""
    coarse = tuple(int(np.ceil(n / step)) + 1 for n in shape)
    x, y, z = (AxisMap(m, n, (m - 1) / (n - 1), 0.0) for m, n in zip(coarse, shape, strict=True))
    return resample(rng.standard_normal(coarse).astype(np.float32), (x, y, z), order=3)


def draw_contrast(
    anatomy: Anatomy,
    contrast: str,
    spacing_mm: float,
    seed: int,
    subject: int,
    lesion_load: float,
    noise_between: tuple[float, float] = NOISE,
) -> np.ndarray:
    """One scan of a subject, (D, H, W) int16: tissues coloured, shaded and noisy, 0 outside the brain."""
    rng = numpy_generator(seed, f"contrast {contrast}", subject)
    *tissue_means, lesion_mean = CONTRASTS[contrast]
    means = np.array(tissue_means) * (1 + TISSUE_SPREAD * rng.standard_normal(3))
    image = np.tensordot(means.astype(np.float32), anatomy.tissues, axes=1)
    shape = image.shape
    noise = rng.uniform(*noise_between)
    texture = 1 + TEXTURE * smooth_field(shape, max(1.0, TEXTURE_MM / spacing_mm), rng)
    bias = np.exp(BIAS * smooth_field(shape, BIAS_MM / spacing_mm, rng))
    real, imaginary = noise * rng.standard_normal((2, *shape), dtype=np.float32)
    if anatomy.lesion is not None and lesion_load > 0:
        target = lesion_mean * means[2] / tissue_means[2]  # follows the subject's white matter
        image = image + lesion_load * anatomy.lesion * (np.float32(target) - image)
    image = np.hypot(image * texture * bias + real, imaginary)
    inside = anatomy.tissues.sum(axis=0) > 0
    return np.where(inside, np.rint(INTENSITY * image).clip(0, 32767), 0).astype(np.int16)
