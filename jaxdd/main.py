"""The launcher: `jaxdd`, `python -m jaxdd` and `python -m jaxdd.main`."""

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import Any

from jaxdd.app.remedies import with_remedy
from jaxdd.errors import Diverged, Interrupted, PeerLost, SettingError


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0; 2 for bad input or a run that diverged; 3 if another process of the job was lost; 130 if
        stopped by SIGINT or SIGTERM.
    """
    words = list(sys.argv[1:] if words is None else words)
    if words == ["--version"]:
        print(f"jaxdd {version('jaxdd')}")
        return 0
    logging.basicConfig(format="%(levelname)s: %(message)s")
    from jaxdd.app.command_line import read
    from jaxdd.app.common import Common
    from jaxdd.app.config import Config

    try:
        command = read(words)
        if isinstance(command, Common):
            command.apply()
        if isinstance(command, Config):
            ask_xla(command.deterministic)
        with _place_of(command):
            launch(command)
    except (SettingError, Diverged) as error:
        print(f"jaxdd: {error}", file=sys.stderr)
        return 2
    except PeerLost as error:
        print(f"jaxdd: {error}. Start all of them again, and the run goes on from what was saved", file=sys.stderr)
        return 3
    except OSError as error:
        print(f"jaxdd: {with_remedy(error)}", file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt) as stopped:
        what = f"{stopped}; everything up to here is saved" if isinstance(stopped, Interrupted) else "stopped at once"
        print(f"jaxdd: {what}. Continue with: {shlex.join(['jaxdd', *words])}", file=sys.stderr)
        return 130
    return 0


def _place_of(command: Any) -> AbstractContextManager[None]:
    """Join the other processes of a job, or make sure that there are none where one is needed."""
    from jaxdd.app.common import Common
    from jaxdd.app.config import Config
    from jaxdd.app.hosts import joined, refuse_many

    if isinstance(command, Config) and not command.dry_run:
        return joined(command.hosts)
    if isinstance(command, Common):
        refuse_many("--dry-run" if isinstance(command, Config) else type(command).__name__.lower())
    return nullcontext()


def launch(command: Any) -> None:
    """Do what a command says, and print what came of it."""
    from jaxdd.app.compare import Compare, compare
    from jaxdd.app.convert import Convert, convert
    from jaxdd.app.evaluate import Evaluate, told
    from jaxdd.app.influence import Influence, influence
    from jaxdd.app.listing import List, listing
    from jaxdd.app.rehearsal import rehearse
    from jaxdd.app.run import kind_of, run
    from jaxdd.app.train import Train, train

    match command:
        case List():
            print(listing())
        case Evaluate():
            print(told(command))
        case Train():
            accuracy = train(command)
            scored = "" if accuracy is None else f": {100 * accuracy:.1f} % of the test images right"
            print(f"{command.out}: {command.model}, trained on {command.sets[0]}{scored}")
        case Convert():
            print(f"card: {convert(command)}, set: {command.out}")
        case Compare():
            print(f"page: {compare(command)}")
        case Influence():
            found = influence(command)
            if "auc" in found:
                print(f"labels replaced on purpose are found with an area under the ROC curve of {found['auc']:.3f}")
            print(f"scores: {command.table}, page: {found['page']}")
        case _ if command.dry_run:
            print(rehearse(command))
        case _:
            print(kind_of(command).lines(run(command)))
            print(f"report: {command.workdir}/report.html, distilled set: {command.workdir}/distilled.npz")


def ask_xla(deterministic: bool) -> None:
    """Request deterministic kernels from XLA, which reads that as a job is joined or the first device is asked for."""
    if deterministic:
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"


if __name__ == "__main__":
    sys.exit(main())
