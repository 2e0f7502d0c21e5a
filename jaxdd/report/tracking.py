"""Curves and images sent to Weights & Biases, by its own client, which is imported only where that is asked for."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jaxdd.errors import SettingError


class Wandb:
    """A run at Weights & Biases; `WANDB_MODE=offline` keeps it in the workdir, for `wandb sync`.

    Every stage has an axis of its own, `distill/step`. A run that is resumed goes on under the same id; the steps
    between its last checkpoint and where it was killed are then sent twice.

    Args:
        workdir: The folder of the run; what the client keeps lies in its folder `wandb`.
        run: What the run is known by.
        settings: Its settings, JSON-able.

    Raises:
        SettingError: The package is not installed.
    """

    def __init__(self, workdir: Path, run: str, settings: Mapping[str, Any]):
        try:
            import wandb
        except ImportError as error:
            raise SettingError(
                "log is 'wandb', and that package is not installed; pip install 'jaxdd[wandb]', or leave --log out"
            ) from error
        self._wandb = wandb
        self._run = wandb.init(
            project="jaxdd",
            id=run[:16],
            name=workdir.resolve().name,
            dir=str(workdir),
            config=dict(settings),
            resume="allow",
        )
        self._stages: set[str] = set()

    def write(
        self, step: int, stage: str, scalars: Mapping[str, float], histograms: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Send what `Metrics.write` writes."""
        counted = {
            name: self._wandb.Histogram(np_histogram=(np.array(h["counts"]), np.array(h["edges"])))
            for name, h in histograms.items()
        }
        self._send(step, stage, {**scalars, **counted})

    def show(self, step: int, stage: str, name: str, png: bytes) -> None:
        """Send a picture."""
        self._send(step, stage, {name: self._wandb.Image(Image.open(io.BytesIO(png)))})

    def close(self) -> None:
        """Say that the run has ended."""
        self._run.finish()

    def _send(self, step: int, stage: str, values: Mapping[str, Any]) -> None:
        if stage not in self._stages:
            self._stages.add(stage)
            self._run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        self._run.log({f"{stage}/step": step, **{f"{stage}/{name}": value for name, value in values.items()}})
