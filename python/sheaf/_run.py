"""``python -m sheaf._run [--as-ray] SCRIPT ARGS...``: the script as ``__main__`` of this
process.
"""

from __future__ import annotations

import builtins
import os
import sys
import types


def main(arguments: list[str]) -> None:
    """Runs the script; ends with its exit status."""
    if arguments and arguments[0] == "--as-ray":
        arguments = arguments[1:]
        from . import as_ray  # noqa: F401  installs the alias
    script, *rest = arguments
    script = os.path.abspath(script)
    sys.argv = [arguments[0], *rest]
    sys.path[0] = os.path.dirname(
        script
    )  # as `python SCRIPT` has it; "-m" has put the current directory there
    module = types.ModuleType("__main__")
    module.__file__ = script
    module.__builtins__ = builtins
    sys.modules["__main__"] = module
    with open(script, "rb") as file:
        code = compile(file.read(), script, "exec")
    exec(code, module.__dict__)


if __name__ == "__main__":
    main(sys.argv[1:])
