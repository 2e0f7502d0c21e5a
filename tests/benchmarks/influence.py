"""Speed of influence scores, and how well they find mislabeled examples: `python -m tests.benchmarks.influence speed`.

`speed`: the scores of all training examples for one target at one set of parameters, by one forward-mode pass against
the gradient of every example (vmap of grad) followed by a dot product, both in chunks, taken alternately in one run;
with XLA's convolution and with the matrix product over patches that jaxdd takes on CPUs.

`noise digits` or `noise fashion_mnist`: a fifth of the training labels is flipped to another class, uniformly; experts
learn from that; the area under the ROC curve says how well a score tells the flipped examples from the others (0.5:
not at all). A low score is taken as a sign of a wrong label, but for losses and self-influence, where a high one is.
"""

import argparse
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxdd import classification, data, influence, models
from jaxdd.core import sampling
from jaxdd.core.autodiff import grad_dot
from jaxdd.core.tasks import cross_entropy
from jaxdd.core.training import Recipe
from jaxdd.data.splits import corrupt
from jaxdd.experts import ExpertsConfig, train_experts
from jaxdd.influence import InfluenceConfig, Solver
from jaxdd.models import ConvNet
from tests.benchmarks.table import header, row


def main() -> None:
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    speed_parser = commands.add_parser("speed")
    speed_parser.add_argument("--data", default="fashion_mnist")
    speed_parser.add_argument("--examples", type=int, default=60_000)
    speed_parser.add_argument("--chunk", type=int, default=500)
    speed_parser.add_argument("--repeats", type=int, default=1)
    speed_parser.add_argument("--baseline", type=int, help="examples for vmap(grad), where all would take too long")
    speed_parser.set_defaults(run=speed)
    noise_parser = commands.add_parser("noise")
    noise_parser.add_argument("data", choices=["digits", "fashion_mnist"])
    noise_parser.add_argument("--examples", type=int, default=1100, help="training examples")
    noise_parser.add_argument("--target", type=int, default=250, help="examples with trusted labels")
    noise_parser.add_argument("--noise", type=float, default=0.2)
    noise_parser.add_argument("--experts", type=int, default=1)
    noise_parser.add_argument("--epochs", type=int, default=10)
    noise_parser.add_argument("--lr", type=float, default=0.05)
    noise_parser.add_argument("--snapshot-every", type=int, default=4)
    noise_parser.add_argument("--damping", type=float, default=3.0, help="of endpoint")
    noise_parser.add_argument("--per-class", action="store_true", help="score for the class of each label as well")
    noise_parser.add_argument("--seed", type=int, default=0)
    noise_parser.set_defaults(run=noise)
    for each in (speed_parser, noise_parser):
        each.add_argument("--width", type=int, default=16)
        each.add_argument("--depth", type=int, default=2)
        each.add_argument("--data-dir")
    arguments = parser.parse_args()
    arguments.run(arguments)


def speed(arguments: argparse.Namespace) -> None:
    dataset = data.load(arguments.data, data_dir=arguments.data_dir, validation=0.0)
    real = jax.device_put(dataset.real_set())
    compiled, parameters = {}, 0
    for convolution in ("patches", "direct"):
        config = ConvNet(width=arguments.width, depth=arguments.depth, convolution=convolution)
        model = models.build(config, dataset.image_shape, dataset.num_classes)
        params = model.init(jax.random.key(0))
        parameters = sum(p.size for p in jax.tree.leaves(params))
        for name, count, function in (
            ("one jvp pass", arguments.examples, forward),
            ("vmap(grad), then dot", arguments.baseline or arguments.examples, per_example),
        ):
            chunks = jnp.arange(count // arguments.chunk * arguments.chunk).reshape(-1, arguments.chunk)
            v = jax.tree.map(lambda p: jax.random.normal(jax.random.key(1), p.shape), params)
            run = jax.jit(partial(function, cross_entropy(model)))
            compiled[name, convolution] = run.lower(real, params, v, chunks).compile(), (real, params, v, chunks)
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in compiled}
    results = {}
    for _ in range(arguments.repeats):
        for name, (function, constants) in compiled.items():
            start = time.perf_counter()
            results[name] = np.asarray(function(*constants))
            seconds[name].append((time.perf_counter() - start) / len(results[name]) * 1000)
    print(f"{parameters} parameters, chunks of {arguments.chunk}")
    for convolution in ("patches", "direct"):  # between them a unit at zero may fall to either side
        ours, theirs = (scores for name, scores in results.items() if name[1] == convolution)
        difference = np.abs(ours[: len(theirs)] - theirs).max() / np.abs(theirs).max()
        print(f"{convolution}: scores of both differ by {difference:.0e} of the largest")
    best = min(np.median(times) for times in seconds.values())
    header("", "convolution", "examples", "s per 1000", "of the fastest", "memory, MiB")
    for name, (function, _) in compiled.items():
        memory, median = function.memory_analysis().temp_size_in_bytes / 2**20, np.median(seconds[name])
        row(*name, len(results[name]), f"{median:.3f}", f"{median / best:.1f}", f"{memory:.0f}")


def forward(losses, real, params, v, chunks):
    def score(rows):
        examples = sampling.take(real, rows)
        return grad_dot(lambda p: losses(p, examples), params, v)

    return jax.lax.map(score, chunks).reshape(-1)


def per_example(losses, real, params, v, chunks):
    def score(row):
        gradient = jax.grad(lambda p: losses(p, sampling.take(real, row[None]))[0])(params)
        return sum(jnp.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(v), strict=True))

    return jax.lax.map(jax.vmap(score), chunks).reshape(-1)


def noisy_dataset(arguments: argparse.Namespace) -> tuple[data.Dataset, np.ndarray]:
    """Replace labels of the training examples: the dataset, its test split the target; and the target's so replaced."""
    clean = data.load(arguments.data, data_dir=arguments.data_dir, validation=0.0).train
    rows = np.random.default_rng(arguments.seed).permutation(len(clean.labels))[: arguments.examples + arguments.target]
    train, held = rows[: arguments.examples], rows[arguments.examples :]
    splits = (clean.images[train], clean.labels[train], clean.images[held], clean.labels[held])
    settings = {"validation": 0.0, "label_noise": arguments.noise, "noise_seed": arguments.seed}
    given = corrupt(clean.labels[held], 10, arguments.noise, "symmetric", arguments.seed)
    return data.from_arrays(*splits, **settings), given


def noise(arguments: argparse.Namespace) -> None:
    dataset, target_given = noisy_dataset(arguments)
    labels, flipped = dataset.train.labels, dataset.mislabeled
    model = models.build(
        ConvNet(width=arguments.width, depth=arguments.depth), dataset.image_shape, dataset.num_classes
    )
    task = classification(model, dataset.num_classes)
    recipe = Recipe(
        epochs=arguments.epochs,
        batch=128,
        lr=arguments.lr,
        momentum=0.0,
        weight_decay=0.0,
        schedule="constant",
        augment="none",
    )
    config = ExpertsConfig(count=arguments.experts, recipe=recipe, snapshot_every=arguments.snapshot_every)
    experts = train_experts(task, dataset, config, seed=arguments.seed)
    train = dataset.real_set()
    # The target images twice, with trusted and with given labels.
    trusted = dataset.test.labels
    images = np.concatenate([dataset.test.images] * 2)
    target = sampling.real_set(images, np.concatenate([trusted, target_given]), 10, dataset.normalization)
    size, count = len(trusted), 12 if arguments.per_class else 2
    target_weights = np.zeros((count, 2 * size))
    target_weights[0, :size] = target_weights[1, size:] = 1 / size
    if arguments.per_class:
        target_weights[2:, :size] = influence.per_class(trusted, 10)

    losses, unravel = jax.jit(task.losses), task.unravel
    examples = sampling.take(train, np.arange(len(labels)))
    path_losses = [losses(unravel(s), examples) for s in experts.recorded[0]]
    final_loss = np.mean([losses(unravel(p), examples) for p in experts.final], axis=0)
    of_flipped, of_others = final_loss[flipped].mean(), final_loss[~flipped].mean()
    print(f"{arguments.data}: {len(labels)} examples, {flipped.sum()} flipped; {experts.num_snapshots} snapshots")
    print(f"training loss of the flipped {of_flipped:.2f}, of the others {of_others:.2f}")
    header("score", "trusted target", "given labels", "own class of the trusted", "s")

    def judge(name: str, *scores: np.ndarray, seconds: float = 0.0) -> None:
        areas = [f"{influence.mislabeled_auc(s, flipped):.3f}" for s in scores]
        row(name, *areas, *[None] * (3 - len(areas)), f"{seconds:.0f}")

    chosen = [
        InfluenceConfig("tracin"),
        InfluenceConfig("second_order", curvature=500),
        InfluenceConfig("bracket", curvature=500),
        InfluenceConfig("sgd_influence", curvature=500),
        InfluenceConfig("endpoint", curvature=500, solver=Solver("cg", damping=arguments.damping, tolerance=1e-3)),
    ]
    for config in chosen:
        start = time.perf_counter()
        try:
            found = influence.scores(task, train, target, experts, config, target_weights=target_weights)
        except FloatingPointError as error:
            row(config.estimator, error)
            continue
        own = [found[2 + labels, np.arange(len(labels))]] if arguments.per_class else []
        judge(config.estimator, found[0], found[1], *own, seconds=time.perf_counter() - start)
    start = time.perf_counter()
    found = influence.self_influence(task, train, experts, InfluenceConfig(chunk=100))
    judge("self-influence", -found, seconds=time.perf_counter() - start)
    judge("loss, last parameters", -final_loss)
    judge("loss, mean over the first expert's path", -np.mean(path_losses, axis=0))


if __name__ == "__main__":
    main()
