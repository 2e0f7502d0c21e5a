"""Normalizations of uint8 images: per-channel standardization and ZCA whitening, both invertible.

Both are pytrees: they travel through `jax.jit` beside the images that they normalize. Axis letters: H W K image height,
width and channels, D = H·W·K, N examples that a normalization is fitted on.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd.errors import SettingError
from jaxdd.settings import check_choice
from jaxdd.types import Array

Kind = Literal["standard", "zca"]

EPSILON = 0.1
"""Added to the eigenvalues of the covariance of images in [0, 1] before ZCA divides by their root."""

LARGEST_ZCA = 3 * 64 * 64
"""Largest D that `ZCA.fit` accepts: the three `[D, D]` float64 arrays of its eigendecomposition take 3.6 GB there."""

UNFITTED = (
    "its images are ZCA-whitened, and the file leaves out the matrix, which is fitted on the real train images again: "
    "give the data, jaxdd.formats.read(path, data=jaxdd.data.load(NAME)), or --data.name and --data.data-dir, of jaxdd "
    "convert --dataset and --data-dir"
)

CHUNK = 4096
"""Images whose float64 copies are in memory at once while the covariance is accumulated."""


class Standardize(NamedTuple):
    """Per-channel standardization, `(x/255 − mean) / std`.

    [published: every method of the field]

    Attributes:
        mean: `[K]` float32 mean of every channel, pixels scaled to [0, 1].
        std: `[K]` float32 population standard deviation of every channel; 1 for a constant channel.
    """

    mean: np.ndarray | Array
    std: np.ndarray | Array

    @property
    def kind(self) -> Kind:
        """Name of this normalization in `DataConfig`."""
        return "standard"

    @classmethod
    def fit(cls, images: np.ndarray) -> Self:
        """Fit mean and standard deviation of every channel, exactly, from the histogram of its 256 levels.

        A constant channel gets standard deviation 1, so it normalizes to 0 rather than to NaN. [our choice]

        Args:
            images: `[N, H, W, K]` uint8, N ≥ 1; the train split.

        Returns:
            The fitted normalization.

        Raises:
            ValueError: if the images are not uint8 `[N, H, W, K]` with N ≥ 1.
        """
        check_images(images)
        levels = np.arange(256) / 255
        counts = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in np.moveaxis(images, -1, 0)])
        probability = counts / counts.sum(axis=1, keepdims=True)  # [K, 256]
        mean = probability @ levels
        std = np.sqrt(np.sum(probability * (levels - mean[:, None]) ** 2, axis=1))
        # A constant channel is recognized by its histogram: its rounding error would pass for a standard deviation.
        std = np.where(np.count_nonzero(counts, axis=1) == 1, 1.0, std)
        return cls(mean.astype(np.float32), std.astype(np.float32))

    def __call__(self, images: np.ndarray | Array) -> Array:
        """Normalize, `(x/255 − mean) / std`.

        Args:
            images: `[..., H, W, K]` uint8.

        Returns:
            `[..., H, W, K]` float32.
        """
        mean, std = _trailing(self.mean, images.ndim), _trailing(self.std, images.ndim)
        return (jnp.asarray(images, jnp.float32) / 255 - mean) / std

    def inverse(self, images: np.ndarray | Array) -> Array:
        """Undo the normalization, `x·std + mean`.

        Args:
            images: `[..., H, W, K]` normalized.

        Returns:
            `[..., H, W, K]` pixels, where [0, 1] is black to white; not clipped.
        """
        return jnp.asarray(images) * _trailing(self.std, images.ndim) + _trailing(self.mean, images.ndim)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Export as named arrays, for a file; `from_arrays` reads them back."""
        return {"kind": np.asarray(self.kind), "mean": np.asarray(self.mean), "std": np.asarray(self.std)}


class ZCA(NamedTuple):
    """ZCA whitening, `(flat(x/255) − mean) @ whiten`.

    [published: MTT and what follows it, ε = 0.1] With the covariance `U Λ Uᵀ` of the flattened train images in [0, 1],

        whiten = U (Λ + ε)^(−1/2) Uᵀ        unwhiten = U (Λ + ε)^(1/2) Uᵀ

    Attributes:
        mean: `[D]` float32 mean image, pixels scaled to [0, 1].
        whiten: `[D, D]` float32, symmetric.
        unwhiten: `[D, D]` float32, symmetric, the inverse of `whiten`.
    """

    mean: np.ndarray | Array
    whiten: np.ndarray | Array
    unwhiten: np.ndarray | Array

    @property
    def kind(self) -> Kind:
        """Name of this normalization in `DataConfig`."""
        return "zca"

    @classmethod
    def fit(cls, images: np.ndarray, *, unbiased: bool = False) -> Self:
        """Fit the mean image and the whitening matrices, in float64.

        Takes O(N D² + D³) operations and a few `[D, D]` float64 arrays.

        Args:
            images: `[N, H, W, K]` uint8, N ≥ 1; the train split.
            unbiased: divide the covariance by N − 1 in place of N, as kornia does, whose ZCA sets of MTT and DATM are
                in.

        Returns:
            The fitted normalization.

        Raises:
            ValueError: if the images are not uint8 `[N, H, W, K]` with N ≥ 1, or are larger than 64 × 64 × 3.
        """
        check_images(images)
        flat = images.reshape(len(images), -1)
        size = flat.shape[1]
        if size > LARGEST_ZCA:
            raise SettingError(
                f"ZCA of {'×'.join(map(str, images.shape[1:]))} images needs {size} × {size} matrices; up to "
                f'{LARGEST_ZCA} is supported: pass a smaller image_size, or normalization="standard"'
            )
        mean = flat.mean(axis=0, dtype=np.float64) / 255
        covariance = np.zeros((size, size))
        for start in range(0, len(flat), CHUNK):
            centered = flat[start : start + CHUNK] / 255 - mean
            covariance += centered.T @ centered
        eigenvalues, vectors = np.linalg.eigh(covariance / max(len(flat) - unbiased, 1))
        # Rounding makes the null directions of the covariance slightly negative.
        root = np.sqrt(np.maximum(eigenvalues, 0) + EPSILON)
        whiten, unwhiten = (vectors / root) @ vectors.T, (vectors * root) @ vectors.T
        return cls(mean.astype(np.float32), whiten.astype(np.float32), unwhiten.astype(np.float32))

    def __call__(self, images: np.ndarray | Array) -> Array:
        """Normalize, `(flat(x/255) − mean) @ whiten`.

        Args:
            images: `[..., H, W, K]` uint8.

        Returns:
            `[..., H, W, K]` float32.
        """
        centered = _flat(jnp.asarray(images, jnp.float32) / 255) - jnp.asarray(self.mean)[None]
        return _matmul(centered, self.whiten).reshape(images.shape)

    def inverse(self, images: np.ndarray | Array) -> Array:
        """Undo the normalization, `flat(x) @ unwhiten + mean`.

        Args:
            images: `[..., H, W, K]` normalized.

        Returns:
            `[..., H, W, K]` pixels, where [0, 1] is black to white; not clipped.
        """
        pixels = _matmul(_flat(jnp.asarray(images)), self.unwhiten) + jnp.asarray(self.mean)[None]
        return pixels.reshape(images.shape)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Export as named arrays, for a file; `from_arrays` reads them back."""
        arrays = {name: np.asarray(value) for name, value in self._asdict().items()}
        return {"kind": np.asarray(self.kind), **arrays}


class Unfitted(NamedTuple):
    """ZCA whitening whose arrays a file leaves out: they are larger than many sets, and real data give them again.

    It says what it is and cannot be used; `jaxdd.formats.read` with the data puts the fitted one in its place.
    """

    @property
    def kind(self) -> Kind:
        """Name of this normalization in `DataConfig`."""
        return "zca"

    def __call__(self, images: np.ndarray | Array) -> Array:
        """Refuse to normalize.

        Raises:
            SettingError: always.
        """
        del images
        raise SettingError(UNFITTED)

    def inverse(self, images: np.ndarray | Array) -> Array:
        """Refuse to undo a normalization.

        Raises:
            SettingError: always.
        """
        del images
        raise SettingError(UNFITTED)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Export the kind alone; `from_arrays` reads it back."""
        return {"kind": np.asarray(self.kind)}


Normalization = Standardize | ZCA | Unfitted

KINDS: dict[str, type[Standardize] | type[ZCA]] = {"standard": Standardize, "zca": ZCA}


def fit(kind: str, images: np.ndarray) -> Normalization:
    """Fit the normalization of a name.

    Args:
        kind: `"standard"` or `"zca"`.
        images: `[N, H, W, K]` uint8, N ≥ 1; the train split.

    Returns:
        The fitted normalization.

    Raises:
        ValueError: if the name or the images are not accepted.
    """
    check_choice("normalization", kind, KINDS)
    return KINDS[kind].fit(images)


def renormalized(images: Array, before: Normalization, after: Normalization) -> Array:
    """Normalize by another what one normalization was applied to; what both do alike comes back as it is.

    Args:
        images: `[N, H, W, K]`, normalized by `before`.
        before: their normalization.
        after: the one to have.
    """
    theirs, ours = (jax.tree.leaves(n) for n in (before, after))
    if before.kind == after.kind and all(map(np.array_equal, theirs, ours)):
        return images
    return after(255 * before.inverse(images))


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Normalization:
    """Rebuild a normalization from what `to_arrays` exported.

    Args:
        arrays: the entry `"kind"` and one array for every field; further entries are ignored.

    Returns:
        The normalization; `Unfitted` for a ZCA without any of its arrays.

    Raises:
        ValueError: if the kind is unknown, or an array is missing or cannot be one of a normalization.
    """
    if "kind" not in arrays:
        raise SettingError(f"no entry 'kind' among {sorted(arrays)}; pass the arrays that to_arrays() returned")
    kind = str(arrays["kind"])
    check_choice("normalization", kind, KINDS)
    if kind == "zca" and not arrays.keys() & {*ZCA._fields}:
        return Unfitted()
    missing = [name for name in KINDS[kind]._fields if name not in arrays]
    if missing:
        raise SettingError(f"the {kind!r} normalization lacks {missing}; pass all arrays that to_arrays() returned")
    fields = {name: np.asarray(arrays[name]) for name in KINDS[kind]._fields}
    for name, values in fields.items():
        axes = 2 if kind == "zca" and name != "mean" else 1
        if values.dtype.kind != "f" or values.ndim != axes or not np.isfinite(values).all():
            raise SettingError(
                f"the normalization's {name} is {values.dtype} {list(values.shape)}, and finite floats of "
                f"{axes} axes are needed: fit it again"
            )
    if kind == "standard" and not (fields["std"] > 0).all():
        raise SettingError(f"the normalization's std is {fields['std'].tolist()}, and it divides: fit it again")
    return KINDS[kind](**fields)


def check_images(images: np.ndarray) -> None:
    """Refuse images that a normalization cannot be fitted on.

    Args:
        images: what should be `[N, H, W, K]` uint8 with N ≥ 1.

    Raises:
        ValueError: if it is not.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) == 0:
        raise SettingError(
            f"a normalization is fitted on uint8 images [N, H, W, K] with N ≥ 1, got {images.dtype} {images.shape}"
        )


def _trailing(values: np.ndarray | Array, ndim: int) -> Array:
    return jnp.asarray(values).reshape((1,) * (ndim - 1) + (-1,))


def _flat(images: Array) -> Array:
    return images.reshape(-1, int(np.prod(images.shape[-3:])))


def _matmul(flat: Array, matrix: np.ndarray | Array) -> Array:
    # The default precision of accelerators (TF32, bfloat16) would spoil the inverse.
    return jnp.matmul(flat, jnp.asarray(matrix), precision=jax.lax.Precision.HIGHEST)
