"""The task of finding the text of an image and the image of a text, and the pairs that it is learned from.

Two encoders map images and texts onto unit vectors; the inner products of a batch, divided by a temperature, are its
logits. A real example is a caption with its image; a distilled one is an image and an embedded text, and what belongs
to what among them may be learned with them: a similarity matrix.

Axis letters: B batch, D embedding, E text features, H W K image, M distilled pairs, N images, P captions, r rank.
"""

import dataclasses
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxdd.core import sampling
from jaxdd.core.distilled import Distilled
from jaxdd.core.sampling import RealSet
from jaxdd.core.tasks import Task
from jaxdd.errors import SettingError
from jaxdd.settings import AtLeast, NonNegative, Positive, Settings
from jaxdd.types import AnyArray, Array, DualEncoder, Examples, Params, PyTree, Scalars

RANKS = (1, 5, 10)
"""K of the recalls."""


@dataclasses.dataclass(frozen=True)
class RetrievalConfig(Settings, path="retrieval"):
    """What a retrieval task computes."""

    temperature: Annotated[float, Positive] = 0.07
    """τ, which divides inner products. [published: VL-distill, LoRS]"""
    loss: Literal["infonce", "bce", "wbce"] = "infonce"
    """Loss on distilled pairs, see `LOSSES`; that on real ones is always infonce. Published for LoRS: wbce."""
    rank: Annotated[int, AtLeast(0)] = 0
    """r, rank of what is learned of the similarity of different distilled pairs, with labels learned (published for
    LoRS: 10 or 20); 0 for none."""
    scale: Annotated[float, NonNegative] = 3.0
    """α, by which α / r the learned part counts (published for LoRS: 3 or 0.01)."""


class Pictures(NamedTuple):
    """The images of a real set of pairs, as its `normalization`: pairs name images, and get them from here.

    Attributes:
        images: `[N, H, W, K]` uint8.
        normalization: What makes of them what a network sees.
    """

    images: AnyArray
    normalization: Any

    def __call__(self, inputs: PyTree) -> PyTree:
        """Turn `{"image": [...] positions, "text": [..., E]}` into images and texts."""
        images = jnp.asarray(self.images)[inputs["image"]]
        return {"image": self.normalization(images), "text": jnp.asarray(inputs["text"])}


def pairs_set(images: AnyArray, normalization: Any, texts: AnyArray, owners: AnyArray) -> RealSet:
    """Make the real set of captions with their images: one example for each caption.

    Args:
        images: `[N, H, W, K]` uint8.
        normalization: uint8 images to what a network sees.
        texts: `[P, E]` embeddings of the captions.
        owners: `[P]` int32, the image of each caption; every image has one or more.

    Returns:
        A set whose inputs are `{"image": owners, "text": texts}` and whose targets are the owners.
    """
    return RealSet({"image": owners, "text": texts}, owners, None, Pictures(images, normalization))


def infonce(logits: Array, similarity: Array) -> Array:
    """Compute `ℓ_i = −½ Σ_j [ S_ij log softmax_j(z_i·)_j + S_ji log softmax_j(z_·i)_j ]`, the symmetric InfoNCE.

    Args:
        logits: `[B, B]` z, images along rows and texts along columns.
        similarity: `[B, B]` S.

    Returns:
        `[B]`. [published] with S = I: CLIP, VL-distill; with a learned S: LoRS, arXiv 2406.03793.
    """
    to_text, to_image = jax.nn.log_softmax(logits, axis=1), jax.nn.log_softmax(logits, axis=0)
    return -0.5 * (jnp.sum(similarity * to_text, axis=1) + jnp.sum(similarity * to_image, axis=0))


def bce(logits: Array, similarity: Array) -> Array:
    """Compute `ℓ_i = mean_j BCE(σ(z_ij), S_ij)`, `[B]`. [published] LoRS."""
    return jnp.mean(_entropies(logits, similarity), axis=1)


def wbce(logits: Array, similarity: Array) -> Array:
    """Compute BCE with positives, S > ½, and negatives averaged apart, half of each.

    `ℓ_i = B/2 Σ_j [ 1(S_ij > ½) / n₊ + 1(S_ij ≤ ½) / n₋ ] BCE(σ(z_ij), S_ij)`, whose mean over i is that of LoRS.

    Args:
        logits: `[B, B]` z.
        similarity: `[B, B]` S.

    Returns:
        `[B]`. [published] LoRS, arXiv 2406.03793; [derived] its split into one loss a pair.
    """
    entropies, positive = _entropies(logits, similarity), similarity > 0.5
    counts = [jnp.maximum(jnp.sum(which), 1) for which in (positive, ~positive)]
    weights = jnp.where(positive, 1 / counts[0], 1 / counts[1]).astype(logits.dtype)
    return 0.5 * len(logits) * jnp.sum(weights * entropies, axis=1)


LOSSES = {"infonce": infonce, "bce": bce, "wbce": wbce}
"""Name to `(logits [B, B], similarity [B, B]) -> [B]`."""


def _entropies(logits: Array, targets: Array) -> Array:
    """Compute `BCE(σ(z), s) = log(1 + exp z) − s z`."""
    return jax.nn.softplus(logits) - targets * logits


def similarity_of(labels: PyTree, indices: Array, scale: float) -> Array:
    """Compute the similarity of distilled pairs, `S = diag(a) + (α / r) L Rᵀ`, at rows and columns `indices [b]`.

    Args:
        labels: `{"diagonal": a [M]}`, and with a rank `"left": L [M, r]` and `"right": R [M, r]`.
        indices: `[b]`.
        scale: α.

    Returns:
        `[b, b]`. [published] LoRS, arXiv 2406.03793, equation 5.
    """
    similarity = jnp.diag(labels["diagonal"][indices])
    if "left" in labels:
        left, right = labels["left"][indices], labels["right"][indices]
        similarity += scale / left.shape[1] * left @ right.T
    return similarity


def same_image(owners: Array) -> Array:
    """Say which captions of a batch belong to which of its images: `[B, B]` rows of sum one, in float."""
    same = (owners[:, None] == owners[None, :]).astype(jnp.result_type(float))
    return same / jnp.sum(same, axis=1, keepdims=True)


def recalls(images: Array, texts: Array, owners: Array) -> Scalars:
    """Compute how often what belongs together is among the K nearest, for K of 1, 5 and 10.

    A caption finds its image (IR@K) if fewer than K other images are as near or nearer; an image finds a text (TR@K) if
    fewer than K captions of other images are as near as the nearest of its own: ties count against.

    Args:
        images: `[N, D]` embeddings.
        texts: `[P, D]` embeddings.
        owners: `[P]` the image of each caption; every image has one or more.

    Returns:
        `IR@K` and `TR@K` in [0, 1], and `recall`, the mean of the six; NaN if an embedding is not finite.

    References:
        [published] the measures, as VL-distill and LoRS report them. [our choice] ties.
    """
    near = texts @ images.T  # [P, N]
    own = jnp.take_along_axis(near, owners[:, None], axis=1)
    mine = owners[:, None] == jnp.arange(len(images))[None]
    before_image = jnp.sum((near >= own) & ~mine, axis=1)
    best = jnp.max(jnp.where(mine, near, -jnp.inf), axis=0)
    before_text = jnp.sum((near >= best[None]) & ~mine, axis=0)
    finite = jnp.isfinite(near).all()
    found = {
        f"{name}@{k}": jnp.where(finite, jnp.mean(before < k), jnp.nan)
        for name, before in (("IR", before_image), ("TR", before_text))
        for k in RANKS
    }
    return {"recall": jnp.mean(jnp.stack([*found.values()])), **found}


def retrieval(encoder: DualEncoder, config: RetrievalConfig | None = None) -> Task:
    """Build the task of image–text retrieval.

    Real examples are captions with their images, of `pairs_set`; images with several captions in a batch share what
    belongs to them evenly. Distilled pairs are `{"image": [M, H, W, K], "text": [M, E]}`, and their labels the
    similarity of `similarity_of`: the identity unless labels are learned.

    Args:
        encoder: The two encoders.
        config: Temperature, loss and what is learned of the similarity.

    Returns:
        The task. It has no classes: a set of `ipc` items is one of `ipc` pairs. Its losses are not separable.
    """
    config = config or RetrievalConfig()
    model = encoder.model

    def losses(params: Params, examples: Examples) -> Array:
        images, texts = model.apply(params, examples.inputs)
        logits = images @ texts.T / config.temperature
        if jnp.issubdtype(examples.targets.dtype, jnp.integer):
            return infonce(logits, same_image(examples.targets).astype(logits.dtype))
        return LOSSES[config.loss](logits, examples.targets)

    def items(distilled: Distilled, indices: Array) -> Examples:
        inputs = jax.tree.map(lambda x: x[indices], distilled.inputs)
        weights = jnp.full(indices.shape, 1 / indices.shape[-1], inputs["text"].dtype)
        return Examples(inputs, similarity_of(distilled.labels, indices, config.scale), weights, indices)

    def labels(targets: Array) -> PyTree:
        diagonal = jnp.ones(len(targets))
        if not config.rank:
            return {"diagonal": diagonal}
        left = jax.random.normal(jax.random.key(0), (len(targets), config.rank))
        return {"diagonal": diagonal, "left": left, "right": jnp.zeros_like(left)}

    def measure(params: Params, split: RealSet) -> Scalars:
        pictures = split.normalization
        if not isinstance(pictures, Pictures):
            raise SettingError("a split of pairs is measured that is no jaxdd.core.retrieval.pairs_set; make it one")
        positions = jnp.arange(len(pictures.images))
        every = RealSet({"image": positions, "text": jnp.zeros((len(positions), 0))}, positions, None, pictures)
        images = sampling.over_all(lambda e, params: encoder.image(params, e.inputs["image"]), every, params)
        owners = jnp.asarray(split.targets)
        return recalls(images, encoder.text(params, jnp.asarray(split.inputs["text"])), owners)

    return Task("retrieval", model, losses, items, labels, measure, score="recall", soft_labels=False, separable=False)
