"""The other side of `tests.benchmarks.speed`: each piece of work as straightforward PyTorch, one function a case.

Networks are lists of tensors, four a block and two of the last layer, as `parameters` takes them from ours; images are
`[B, K, H, W]`. Nothing is computed that the formula does not ask for, and nothing is made clever.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import torch
from torch.func import grad, vmap
from torch.nn import functional

Tensors = list[torch.Tensor]
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def tensor(array: Any) -> torch.Tensor:
    """Copy an array, classes as int64, numbers in the precision that is set."""
    values = np.asarray(array)
    return torch.from_numpy(values.astype(np.int64 if values.dtype.kind == "i" else jnp.result_type(float))).to(DEVICE)


def pictures(array: Any) -> torch.Tensor:
    """Copy images `[..., H, W, K]` to `[..., K, H, W]`."""
    return tensor(array).movedim(-1, -3).contiguous()


def parameters(params: Any) -> Tensors:
    """Copy the parameters of our ConvNet, also where they have leading axes."""
    body = params["body"]
    found: Tensors = []
    for block in range(len(body) // 2):
        conv, norm = body[f"conv_{block}"], body[f"norm_{block}"]
        kernel = tensor(conv["kernel"]).movedim((-1, -2), (-4, -3)).contiguous()
        found += [kernel, *(tensor(x) for x in (conv["bias"], norm["scale"], norm["bias"]))]
    return [*found, *(tensor(params["linear"][name]) for name in ("kernel", "bias"))]


def fused(images: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Normalize each channel of each image."""
    return functional.instance_norm(images, weight=scale, bias=shift)


def by_hand(images: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Normalize likewise: PyTorch's own has no third derivative."""
    apart = images - images.mean((2, 3), keepdim=True)
    normal = apart * torch.rsqrt((apart**2).mean((2, 3), keepdim=True) + 1e-5)
    return normal * scale[:, None, None] + shift[:, None, None]


def features(params: Tensors, images: torch.Tensor, normalize: Any = fused) -> torch.Tensor:
    """Compute `[B, F]`, in the order of ours."""
    for block in range((len(params) - 2) // 4):
        kernel, bias, scale, shift = params[4 * block : 4 * block + 4]
        images = functional.conv2d(images, kernel, bias, padding=1)
        images = normalize(images, scale, shift)
        images = functional.avg_pool2d(functional.relu(images), 2)
    return images.permute(0, 2, 3, 1).flatten(1)


def logits(params: Tensors, images: torch.Tensor, normalize: Any = fused) -> torch.Tensor:
    """Compute `[B, C]`."""
    return features(params, images, normalize) @ params[-2] + params[-1]


def loss_of(params: Tensors, images: torch.Tensor, labels: torch.Tensor, normalize: Any = fused) -> torch.Tensor:
    """Compute the mean cross-entropy."""
    return functional.cross_entropy(logits(params, images, normalize), labels)


def gradient(value: torch.Tensor, params: Tensors, *, graph: bool) -> Tensors:
    """Differentiate; with a graph so that the gradient can be differentiated."""
    return list(torch.autograd.grad(value, params, create_graph=graph))


def leaves(params: Tensors) -> Tensors:
    """Begin a graph at parameters."""
    return [p.detach().requires_grad_(True) for p in params]


def mtt(
    images: torch.Tensor, labels: torch.Tensor, lr: torch.Tensor, start: Tensors, target: Tensors, steps: int
) -> Any:
    """Train a student, every step on all images; its distance to the target."""
    student = leaves(start)
    for _ in range(steps):
        slopes = gradient(loss_of(student, images, labels), student, graph=True)
        student = [p - lr * g for p, g in zip(student, slopes, strict=True)]
    apart, before = (sum(((a - b) ** 2).sum() for a, b in zip(x, target, strict=True)) for x in (student, start))
    return apart / before


def dc(images: torch.Tensor, labels: torch.Tensor, params: Tensors, real: torch.Tensor) -> Any:
    """Match gradients of the classes: `real [C, B, K, H, W]`, the images of a class one after another."""
    total, per_class = torch.zeros((), device=DEVICE), len(images) // len(real)
    for label, batch in enumerate(real):
        point, own = leaves(params), slice(label * per_class, (label + 1) * per_class)
        of_real = gradient(loss_of(point, batch, labels.new_full((len(batch),), label)), point, graph=False)
        of_ours = gradient(loss_of(point, images[own], labels[own]), point, graph=True)
        for g, h in zip(of_ours, of_real, strict=True):
            total = total + filters_apart(g, h.detach())
    return total


def filters_apart(g: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """Sum 1 − cos over the units of a tensor; vectors have none, and a dense kernel has them last."""
    if g.ndim == 1:
        return g.new_zeros(())
    g, h = (x.flatten(1) if x.ndim == 4 else x.T for x in (g, h))
    return (1 - (g * h).sum(1) / (g.norm(dim=1) * h.norm(dim=1) + 1e-6)).sum()


def dm(images: torch.Tensor, params: Tensors, real: torch.Tensor) -> Any:
    """Match mean features of the classes."""
    total, own = torch.zeros((), device=DEVICE), images.view(len(real), -1, *images.shape[1:])
    for mine, theirs in zip(own, real, strict=True):
        with torch.no_grad():
            of_real = features(params, theirs).mean(0)
        total = total + ((features(params, mine).mean(0) - of_real) ** 2).sum()
    return total


def ncfm(images: torch.Tensor, params: Tensors, real: torch.Tensor, frequencies: torch.Tensor) -> Any:
    """Match characteristic functions of features of norm one; `frequencies [C, D, F]`."""
    total, own = torch.zeros((), device=DEVICE), images.view(len(real), -1, *images.shape[1:])
    for mine, theirs, t in zip(own, real, frequencies, strict=True):
        with torch.no_grad():
            phi = functional.normalize(features(params, theirs), dim=1) @ t.T
            re_r, im_r = phi.cos().mean(0), phi.sin().mean(0)
        phi = functional.normalize(features(params, mine), dim=1) @ t.T
        re_s, im_s = phi.cos().mean(0), phi.sin().mean(0)
        size_r, size_s = (re_r**2 + im_r**2).sqrt(), (re_s**2 + im_s**2).sqrt()
        phase = 2 * (size_r * size_s - re_r * re_s - im_r * im_s)
        total = total + 300 * (0.5 * (size_r - size_s) ** 2 + 0.5 * phase).sqrt().mean()
    return total


def infmatch(
    images: torch.Tensor,
    labels: torch.Tensor,
    params: Tensors,
    first: tuple[torch.Tensor, torch.Tensor],
    second: tuple[torch.Tensor, torch.Tensor],
    tau: float,
) -> Any:
    """The residual of influence, second order, at one checkpoint: real batches for gradients and for Hessians."""
    point = leaves(params)
    g_d = [g.detach() for g in gradient(loss_of(point, *first, by_hand), point, graph=False)]
    g_s = gradient(loss_of(point, images, labels, by_hand), point, graph=True)
    of_real = gradient(loss_of(point, *second, by_hand), point, graph=True)

    def product(slopes: Tensors, vectors: Tensors) -> Tensors:
        return list(torch.autograd.grad(slopes, point, vectors, create_graph=True))

    hd_gap = product(of_real, [s - d for s, d in zip(g_s, g_d, strict=True)])
    hs_gd, hd_gd = product(g_s, g_d), [x.detach() for x in product(of_real, g_d)]
    a, b = -tau, tau**2 / 2
    parts = zip(g_s, g_d, hd_gap, hs_gd, hd_gd, strict=True)
    residual, empty = zip(
        *((a * (s - d) + b * (p + q - r), -a * d - 2 * b * r) for s, d, p, q, r in parts), strict=True
    )
    apart, before = (sum((x**2).sum() for x in of).sqrt() for of in (residual, empty))
    return apart / before


def image_gradient(objective: Callable[..., Any]) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Turn an objective of images and more into its value and gradient in the images."""

    def value_and_grad(images: torch.Tensor, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        images = images.detach().requires_grad_(True)
        value = objective(images, *args)
        return value.detach(), torch.autograd.grad(value, images)[0]

    return value_and_grad


def train(params: Tensors, batches: list[tuple[torch.Tensor, torch.Tensor]], lr: float) -> Tensors:
    """Train by plain SGD."""
    params = leaves(params)
    for images, labels in batches:
        slopes = gradient(loss_of(params, images, labels), params, graph=False)
        with torch.no_grad():
            for p, g in zip(params, slopes, strict=True):
                p -= lr * g
    return [p.detach() for p in params]


def scores(params: Tensors, images: torch.Tensor, labels: torch.Tensor, vector: Tensors, chunk: int) -> torch.Tensor:
    """Compute `⟨∇ℓ_i, v⟩` of all examples from the gradient of each."""

    def of_one(image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        slopes = grad(lambda p: loss_of(p, image[None], label[None]))(params)
        return sum(((g * v).sum() for g, v in zip(slopes, vector, strict=True)), start=image.new_zeros(()))

    parts = [vmap(of_one)(*part) for part in zip(images.split(chunk), labels.split(chunk), strict=True)]
    return torch.cat(parts)


def accuracy(params: Tensors, split: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Compute the part of examples that a network classifies right."""
    with torch.no_grad():
        right = sum((logits(params, images).argmax(1) == labels).sum() for images, labels in split)
    return float(right) / sum(len(labels) for _, labels in split)
