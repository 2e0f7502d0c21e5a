"""What is told in one line: what a user did wrong, what diverged, what was interrupted.

All else is a bug and keeps its traceback.
"""


class SettingError(ValueError):
    """Something that a user set or gave cannot work; the message names it and the remedy."""


class Diverged(FloatingPointError):
    """Numbers of training, of distillation or of an estimate are not finite."""


class PeerLost(RuntimeError):
    """Another process of the job ended or cannot be reached; what was saved is there."""


class Interrupted(Exception):
    """The run was asked to stop and has saved what it had computed."""
