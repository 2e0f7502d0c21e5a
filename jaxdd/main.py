"""The launcher: `python -m jaxdd.main`, and its commands `evaluate DISTILLED.npz` and `influence`."""

import logging
import os
import shlex
import sys
from collections.abc import Sequence

from jaxdd.app.remedies import with_remedy
from jaxdd.errors import Diverged, Interrupted, SettingError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The exit status: 0; 2 for bad input or a run that diverged; 130 if stopped by SIGINT or SIGTERM.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        if arguments and arguments[0] in COMMANDS:
            return COMMANDS[arguments[0]](arguments[1:])
        return _run(arguments)
    except (SettingError, Diverged) as error:
        print(f"jaxdd: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"jaxdd: {with_remedy(error)}", file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt) as stopped:
        what = f"{stopped}; everything up to here is saved" if isinstance(stopped, Interrupted) else "stopped at once"
        print(f"jaxdd: {what}. Continue with: python -m jaxdd.main {shlex.join(arguments)}", file=sys.stderr)
        return 130


def _run(arguments: Sequence[str]) -> int:
    from jaxdd.app.config import Config, parse

    config: Config = parse(arguments)
    _ask_xla(config.deterministic)
    from jaxdd.app.run import run

    results = run(config)
    print_scores(results)
    print(f"report: {config.workdir}/report.html, distilled set: {config.workdir}/distilled.npz")
    return 0


def _evaluate(arguments: Sequence[str]) -> int:
    from jaxdd.app.evaluate import parse, rescore

    print_scores(rescore(parse(arguments)))
    return 0


def _influence(arguments: Sequence[str]) -> int:
    from jaxdd.app.influence import audit, read_command

    command = read_command(arguments)
    _ask_xla(command.deterministic)
    found = audit(command)
    if "auc" in found:
        print(f"labels replaced on purpose are found with an area under the ROC curve of {found['auc']:.3f}")
    print(f"scores: {command.table}, page: {found['page']}")
    return 0


def _ask_xla(deterministic: bool) -> None:
    if deterministic:  # read when the first device is asked for
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_gpu_deterministic_ops=true"


COMMANDS = {"evaluate": _evaluate, "influence": _influence}


def print_scores(results: dict) -> None:
    """Print every accuracy in per cent, one a line."""
    for name in ("distilled", "random_real", "full_data"):
        if results.get(name):
            score = results[name]
            print(f"{name:12} {100 * score['mean']:5.1f} ± {100 * score['std']:.1f} %  ({len(score['runs'])} networks)")


if __name__ == "__main__":
    sys.exit(main())
