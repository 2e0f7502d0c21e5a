"""Progressive distillation (PDD): set after set, each for networks that the sets before have trained.

What a stage poses to a method is in `jaxdd.core.progressive`; here is the loop over stages.

Axis letters: P stages.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxdd.core.distilled import Distilled
from jaxdd.core.keys import stage_key
from jaxdd.core.parallel import over_devices, to_host
from jaxdd.core.progressive import after, check_stages, union
from jaxdd.core.tasks import Task
from jaxdd.core.training import Recipe
from jaxdd.data import Data
from jaxdd.driver import Outcome, distill
from jaxdd.errors import SettingError
from jaxdd.evaluation import EvaluateConfig
from jaxdd.experts import ExpertsConfig, train_experts
from jaxdd.experts.trajectories import Trajectories
from jaxdd.methods import MethodConfig, Sources, initial_distilled
from jaxdd.types import PyTree


class Stage(NamedTuple):
    """One of P distillations.

    Attributes:
        number: p, from 1.
        task: That of networks which the stages before have trained.
        config: The method; its `ipc` is that of the union of this stage and those before.
        earlier: The union of the stages before, None in the first one.
    """

    number: int
    task: Task
    config: MethodConfig
    earlier: Distilled | None

    def first_set(
        self,
        dataset: Data,
        trajectories: Trajectories | None,
        seed: int,
        lr: float,
        choosing: Trajectories | None = None,
    ) -> Distilled:
        """Return the set that the stage starts from: the earlier items, and new ones as the method makes them.

        The new ones are the last of each class of a whole set. Real images are those of one choice for all stages:
        herding goes on where it was, and random images come once; of noise, each stage has its own.

        Args:
            dataset: The real data.
            trajectories: Experts of the stage, if the method needs some.
            seed: Root of the run's randomness.
            lr: Learning rate of sets that learn none.
            choosing: Experts of the first stage, by which real images are chosen in all of them.
        """
        root = self.seed(seed) if self.config.init == "noise" else seed
        key, sources = stage_key(root, "initial"), Sources(dataset.real_set(), trajectories)
        whole: Distilled = initial_distilled(key, self.task, sources, self.config, lr=lr, choosing=choosing)
        if self.earlier is not None:
            whole = union(self.earlier, whole, self.task.items(1))
        begun: Distilled = to_host(whole)
        return begun

    def seed(self, root: int) -> int:
        """Derive the seed of the stage's experts and noise from that of the run: in the first stage, that."""
        return root + self.number - 1


class StagedOutcome(NamedTuple):
    """What progressive distillation ends with.

    Attributes:
        distilled: The union of all stages; of each class, the items of the first stage come first.
        task: The task whose networks have been trained on the stages before the last: `jaxdd.evaluate` with it and
            `distilled` is the progressive evaluation.
        outcomes: Of each stage, P of them.
    """

    distilled: Distilled
    task: Task
    outcomes: tuple[Outcome, ...]

    @property
    def learning_rates(self) -> tuple[PyTree, ...]:
        """Of the union of each stage; a card that has them in its provenance tells how to train on the set."""
        return tuple(outcome.distilled.lr for outcome in self.outcomes)


def in_stages(
    task: Task, config: MethodConfig, stages: int, recipe: Recipe, distill_stage: Callable[[Stage], Outcome]
) -> StagedOutcome:
    """Run a distillation for each stage.

    Args:
        task: What networks do before all stages.
        config: The method, its `ipc` that of all stages together.
        stages: P; one is a distillation like any other.
        recipe: How networks are trained on each union.
        distill_stage: Distills the union of a stage.

    Raises:
        SettingError: `ipc` does not divide by the number of stages.
    """
    check_stages(stages, config.ipc, "method.ipc is that of all")
    per_stage, posed = config.ipc // stages, task
    earlier: Distilled | None = None
    outcomes: list[Outcome] = []
    for number in range(1, stages + 1):
        whole = dataclasses.replace(config, ipc=number * per_stage)
        if earlier is not None:
            posed = after(task, earlier, whole.items_per_class, recipe, posed.model.init)
        outcomes.append(distill_stage(Stage(number, posed, whole, earlier)))
        earlier = outcomes[-1].distilled
    return StagedOutcome(outcomes[-1].distilled, posed, tuple(outcomes))


@over_devices()
def progressive(
    task: Task,
    dataset: Data,
    config: MethodConfig,
    experts: ExpertsConfig | None = None,
    *,
    stages: int = 5,
    recipe: Recipe | None = None,
    seed: int = 0,
    evaluate: EvaluateConfig = EvaluateConfig(),
    **hooks: Any,
) -> StagedOutcome:
    """Distill in stages, see the module.

    Args:
        task: What networks do.
        dataset: The real data.
        config: The method; its `ipc` is that of all stages together, and a multiple of their number.
        experts: How experts of each stage are trained, for a method that needs some: from the parameters that the
            stages before end with.
        stages: P (published: 5).
        recipe: How networks are trained on each union; that of evaluation by default.
        seed: Root of the randomness.
        evaluate: How sets are scored on the validation split, by networks of their stage.
        hooks: See `jaxdd.distill`; without checkpoints, for each stage is a run of its own. The launcher has them.

    Returns:
        The union of all stages, and the task to evaluate it with.

    Raises:
        SettingError: `ipc` does not divide, experts are needed and none described, or checkpoints or a first set are
            given.

    References:
        [published] PDD, Chen et al. 2024, ICLR (around MTT and IDC): five stages, earlier images fixed, experts from
        networks trained on them, evaluation on growing unions. [our choice] each stage's set is the best one on the
        validation split.
    """
    if config.needs_experts and experts is None:
        raise SettingError(f"{config.name} needs experts, of each stage: give experts=ExpertsConfig(…)")
    if "checkpoints" in hooks:
        raise SettingError("one folder of checkpoints cannot serve several stages, each a run of its own; leave it out")
    if "initial" in hooks:
        raise SettingError("stages make their first sets themselves; leave initial out")
    choosing: Trajectories | None = None

    def distill_stage(stage: Stage) -> Outcome:
        nonlocal choosing
        trajectories = None
        if config.needs_experts:
            assert experts is not None
            trajectories = train_experts(stage.task, dataset, experts, seed=stage.seed(seed))
            if choosing is None:
                choosing = trajectories._replace(snapshots=None)
        first = stage.first_set(dataset, trajectories, seed, evaluate.recipe.lr, choosing)
        return distill(
            stage.task, dataset, stage.config, trajectories, initial=first, seed=seed, evaluate=evaluate, **hooks
        )

    return in_stages(task, config, stages, recipe or evaluate.recipe, distill_stage)
