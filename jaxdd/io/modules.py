"""Python files that are named by a path: configurations, and networks of a user's own."""

import sys
from pathlib import Path
from types import ModuleType


def import_file(path: Path) -> ModuleType:
    """Import a file as a module of its own name, where tools find the text of the classes that it defines.

    Args:
        path: The file; it is run again each time.

    Raises:
        OSError: It cannot be read.
        Exception: Whatever the file raises.
    """
    name = f"jaxdd_file_{path.stem}"
    code = compile(path.read_bytes(), path, "exec")  # no bytecode beside it, which could be stale
    module = sys.modules[name] = ModuleType(name)
    module.__file__ = str(path)
    exec(code, module.__dict__)
    return module
