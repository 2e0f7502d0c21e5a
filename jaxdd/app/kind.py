"""What runs on different kinds of data do each in its own way; everything else is one code.

`jaxdd.app.labeled` is the kind of labeled images, `jaxdd.app.captioned` that of captioned ones.
"""

from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxdd.app.config import Config
from jaxdd.core.distilled import Distilled
from jaxdd.core.tasks import Task
from jaxdd.driver import Outcome
from jaxdd.methods import MethodConfig


class Finished(NamedTuple):
    """A run that has ended: its folder, what distillation gave, the content of `results.json`, and its curves."""

    workdir: Path
    outcome: Outcome
    results: dict[str, Any]
    metrics_path: Path


class Kind(Protocol):
    """A kind of data; `dataset` is what its `problem` loaded."""

    def problem(self, config: Config) -> tuple[Any, Task]:
        """Load the data and say what networks do."""

    def network(self, config: Config) -> Any:
        """Say what network a run trains, for the key of its experts."""

    def initial_set(self, path: str, dataset: Any) -> Distilled:
        """Read a set to start from."""

    def shown(self, dataset: Any, method: MethodConfig, distilled: Distilled) -> tuple[dict[str, Any], bytes]:
        """Return numbers of a set whose histograms are followed over the steps, and its picture."""

    def inspected(self, dataset: Any, values: dict[str, Any]) -> dict[str, Any]:
        """Return what a method tells of its state as scalars and arrays."""

    def stored(self, method: MethodConfig, distilled: Distilled) -> dict[str, int]:
        """Count the numbers that a set stores."""

    def write_scores(self, path: Path, scores: np.ndarray, dataset: Any, **told: Any) -> tuple[Path, dict[str, float]]:
        """Write scores of the real examples as a table and a page; also the page, and how well they find wrong labels.

        What is told: `title`, `about`, `settings`, `ends` and `spread`, see `jaxdd.report.scores_page.write_scores`.
        """

    def lines(self, results: dict[str, Any]) -> str:
        """Write what a run has reached for a terminal."""

    def write(self, dataset: Any, config: Config, done: Finished) -> None:
        """Write the set and its pages into the workdir."""
