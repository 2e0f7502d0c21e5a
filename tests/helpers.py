"""What several test files need."""

import functools
import math
import re

import jax
import jax.numpy as jnp

from jaxdd.core.distilled import Distilled
from jaxdd.types import Examples


def finite_difference(function, x, direction, step=1e-4):
    """Differentiate a scalar function of a tree along a direction, by a fourth-order central difference."""

    def at(t):
        return function(jax.tree.map(lambda a, d: a + t * d, x, direction))

    return (8 * (at(step) - at(-step)) - (at(2 * step) - at(-2 * step))) / (12 * step)


def random_like(tree, seed=11):
    """Draw a standard normal tree of the same structure."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    drawn = [jax.random.normal(k, jnp.shape(leaf), jnp.result_type(leaf)) for k, leaf in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def damaged(content, random, trial):
    """Cut every third trial's content short, and turn one or two bits of the others'."""
    content = bytearray(content[: random.integers(len(content))] if trial % 3 == 0 else content)
    for _ in range(trial % 3):
        content[random.integers(len(content))] ^= 1 << random.integers(8)
    return content


def dot(a, b):
    """Inner product of two trees."""
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def class_batch(images, classes, keys=3, dtype=jnp.float64):
    """A batch of `images` real examples for each class, with weights that are not equal."""
    image_key, weight_key = jax.random.split(jax.random.key(keys))
    weights = jax.random.uniform(weight_key, (classes, images), dtype, 0.5, 1.5)
    return Examples(
        inputs=jax.random.normal(image_key, (classes, images, 4, 4, 1), dtype),
        targets=jnp.broadcast_to(jnp.eye(classes, dtype=dtype)[:, None], (classes, images, classes)),
        weights=weights / weights.sum(1, keepdims=True),
        indices=jnp.arange(classes * images).reshape(classes, images),
    )


def distilled_set(per_class, classes=3, dtype=jnp.float64, seed=4):
    """Draw a distilled set of noise with soft labels."""
    size = per_class * classes
    images = jax.random.normal(jax.random.key(seed), (size, 4, 4, 1), dtype)
    # Soft labels, so that their gradient is not zero.
    labels = 2 * jax.nn.one_hot(jnp.repeat(jnp.arange(classes), per_class), classes, dtype=dtype)
    return Distilled(images, labels, jnp.asarray(0.01, dtype))


INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%([\w.\-]+) = (.*)$")
SHAPE = re.compile(r"^\(?\w+\[([\d,]*)\]")


def matrix_work(compiled):
    """Count the multiplications of all matrix products and convolutions that one device does in a compiled program.

    Read from the program itself: a loop counts as often as it is known to turn, a conditional as its longest branch, a
    loop of unknown length once.
    """
    bodies, entry = {}, None
    for line in compiled.as_text().splitlines():
        if head := re.match(r"^(ENTRY )?%?([\w.\-]+) .*\{$", line):
            current = bodies.setdefault(head.group(2), [])
            entry = head.group(2) if head.group(1) else entry
        elif found := INSTRUCTION.match(line):
            current.append(found.groups())

    def shape_of(text):
        return [int(n) for n in SHAPE.match(text).group(1).split(",") if n]

    def named(text, attribute):
        lists = re.findall(rf"{attribute}=(%[\w.\-]+|\{{[^}}]*\}})", text)
        return [name for found in lists for name in re.findall(r"%([\w.\-]+)", found)]

    @functools.cache
    def work(name):
        shapes = {result: text for result, text in bodies[name]}
        total = 0
        for _, text in bodies[name]:
            if product := re.search(r" dot\(%([\w.\-]+), .*lhs_contracting_dims=\{([\d,]*)\}", text):
                lhs, dims = shape_of(shapes[product.group(1)]), product.group(2)
                total += math.prod(shape_of(text)) * math.prod(lhs[int(d)] for d in dims.split(",") if d)
            elif convolution := re.search(r" convolution\(%[\w.\-]+, %([\w.\-]+)\).*dim_labels=\w+_(\w+)->", text):
                kernel, labels = shape_of(shapes[convolution.group(1)]), convolution.group(2)
                total += math.prod(shape_of(text)) * math.prod(kernel) // kernel[labels.index("o")]
            elif " while(" in text:
                turns = re.search(r'known_trip_count":\{"n":"(\d+)"', text)
                total += int(turns.group(1) if turns else 1) * work(named(text, "body")[0])
            elif " conditional(" in text:
                total += max(map(work, named(text, "branch_computations") + named(text, "(?:true|false)_computation")))
            else:
                total += sum(map(work, named(text, "calls") + named(text, "to_apply")))
        return total

    return work(entry)
