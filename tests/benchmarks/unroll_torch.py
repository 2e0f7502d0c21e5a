"""The outer step of MTT as a straightforward loop in eager PyTorch, to be held against `tests.benchmarks.unroll`.

`python -m tests.benchmarks.unroll_torch` (extra `torch`): the same ConvNet of width 128 and depth 3 on 32×32×3, 50
student steps under `create_graph`, one and ten images per class. The median of six steps after two, on a GPU if there
is one, with the peak memory there.
"""

import argparse
import math
import time

import numpy as np
import torch
from torch.nn import functional

from tests.benchmarks.table import header, row


def shapes_of(width: int) -> list[tuple[int, ...]]:
    """Return the shapes of the network's tensors, in the order in which it reads them."""
    shapes: list[tuple[int, ...]] = []
    for channels in (3, width, width):
        shapes += [(width, channels, 3, 3), (width,), (width,), (width,)]
    return [*shapes, (10, width * 16), (10,)]


def forward(flat: torch.Tensor, images: torch.Tensor, shapes: list[tuple[int, ...]]) -> torch.Tensor:
    """Compute logits from flat parameters."""
    parts = flat.split([math.prod(shape) for shape in shapes])
    tensors = [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]
    for block in range(3):
        kernel, bias, scale, shift = tensors[4 * block : 4 * block + 4]
        features = functional.conv2d(images, kernel, bias, padding=1)
        features = functional.group_norm(features, len(kernel), scale, shift)
        images = functional.avg_pool2d(functional.relu(features), 2)
    return images.flatten(1) @ tensors[-2].T + tensors[-1]


def seconds_of(ipc: int, steps: int, width: int, device: str) -> float:
    """Time an outer step."""
    shapes = shapes_of(width)
    size = sum(math.prod(shape) for shape in shapes)
    images = torch.randn(10 * ipc, 3, 32, 32, device=device, requires_grad=True)
    labels = torch.arange(10, device=device).repeat(ipc)
    lr = torch.tensor(0.01, device=device, requires_grad=True)
    start, target = (0.02 * torch.randn(size, device=device) for _ in range(2))
    optimizer = torch.optim.SGD([images, lr], 1e-3)
    times = []
    for _ in range(8):
        began = time.perf_counter()
        student = start.clone().requires_grad_(True)
        for _ in range(steps):
            loss = functional.cross_entropy(forward(student, images, shapes), labels)
            (gradient,) = torch.autograd.grad(loss, student, create_graph=True)
            student = student - lr * gradient
        optimizer.zero_grad()
        (((student - target) ** 2).sum() / ((start - target) ** 2).sum()).backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    return float(np.median(times[2:]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--width", type=int, default=128)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    header("images per class", "student steps", "seconds", "peak memory, MiB")
    for ipc in (1, 10):
        seconds = seconds_of(ipc, arguments.steps, arguments.width, device)
        peak = f"{torch.cuda.max_memory_allocated() / 2**20:.0f}" if device == "cuda" else None
        row(ipc, arguments.steps, f"{seconds:.3g}", peak)


if __name__ == "__main__":
    main()
