"""``import sheaf.as_ray`` makes ``import ray`` and its submodules mean sheaf: the same module
objects.

Workers of this process's cluster do the same: the choice travels in the environment
(SHEAF_AS_RAY=1), which their start-up looks at. Submodules that sheaf does not have raise
ImportError, as if Ray were installed without them.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys

ENVIRONMENT = "SHEAF_AS_RAY"

# Places that moved; what lies below them has moved along
_ALIASES = {
    "ray.cloudpickle": "cloudpickle",
    "ray._raylet": "sheaf._private.raylet",
    "ray.worker": "sheaf._private.worker",
    "ray.dag.dag_node": "sheaf.dag.nodes",
    "ray.dag.function_node": "sheaf.dag.nodes",
    "ray.dag.class_node": "sheaf.dag.nodes",
    "ray.dag.compiled_dag_node": "sheaf.dag.compiled",
    "ray.dag.context": "sheaf.dag.compiled",
    "ray.experimental.state": "sheaf.util.state",
    "ray.util.joblib.ray_backend": "sheaf.util.joblib.backend",
}


def _target(name: str) -> str:
    for old, new in _ALIASES.items():
        if name == old or name.startswith(old + "."):
            return new + name[len(old) :]
    return "sheaf" + name[len("ray") :]


class _Loader(importlib.abc.Loader):
    """Hands out sheaf's module under Ray's name."""

    def create_module(self, spec):
        module = importlib.import_module(_target(spec.name))
        self._spec = module.__spec__
        return module

    def exec_module(self, module):
        module.__spec__ = self._spec  # the import system has put the alias's there
        # What is loaded already gets its second name now: importing it later would set it as an
        # attribute of its parent, over a function of that name (util.placement_group).
        prefix = module.__name__ + "."
        for name, loaded in list(sys.modules.items()):
            if name.startswith(prefix) and loaded is not None and prefix.startswith("sheaf."):
                sys.modules.setdefault("ray" + name[len("sheaf") :], loaded)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds ``ray`` and ``ray.X`` as ``sheaf`` and ``sheaf.X``."""

    def find_spec(self, name, path=None, target=None):
        if name != "ray" and not name.startswith("ray."):
            return None
        try:
            found = importlib.util.find_spec(_target(name))
        except ModuleNotFoundError:
            found = None
        if found is None:
            if name == "ray":
                return None
            raise ModuleNotFoundError(
                f"No module named '{name}': sheaf stands in for Ray and has no {_target(name)}",
                name=name,
            )
        return importlib.machinery.ModuleSpec(
            name, _Loader(), is_package=found.submodule_search_locations is not None
        )


def install() -> None:
    """From now on ``ray`` means sheaf, here and in processes started from here.

    Raises RuntimeError when Ray itself has been imported already.
    """
    ray = sys.modules.get("ray")
    if ray is not None and ray is not sys.modules["sheaf"]:
        raise RuntimeError("Ray has been imported already: import sheaf.as_ray before it.")
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    os.environ[ENVIRONMENT] = "1"


def uninstall() -> None:
    """Undoes `install`, for tests."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    for name in [name for name in sys.modules if name == "ray" or name.startswith("ray.")]:
        del sys.modules[name]
    os.environ.pop(ENVIRONMENT, None)


def install_if_asked() -> None:
    """What workers call first: `install` when the driver did."""
    if os.environ.get(ENVIRONMENT) == "1":
        install()


install()
