"""Runtime environments on the driver's side: normalised, packages uploaded once, as canonical JSON.

The JSON is part of a task's scheduling class: equal environments must give equal text. What a
worker does with it stands in `_runtime_env_worker`.
"""

from __future__ import annotations

import os

from . import _core
from ._state import ensure_connected, state

PACKAGE_SPACE = "pkg"
PACKAGE_LIMIT = 512 << 20
_DEFAULT_EXCLUDES = (".git/", "__pycache__/", "*.pyc", ".venv/", "venv/")

_prepared: dict[str, tuple[int, str]] = {}


def prepare_json(runtime_env) -> str:
    """Canonical JSON of a task's or actor's environment merged over its job's; "" = the job's own.

    Uploads directories that it names. Raises ValueError or TypeError for a malformed environment,
    and RuntimeEnvSetupError when a directory cannot be packed.
    """
    if not runtime_env:
        return state.own_runtime_env
    return canonical(merge(inherited(), prepare(runtime_env)))


def inherited() -> dict:
    """The environment that children of the running code inherit."""
    return state.runtime_env


def merge(parent: dict, child: dict) -> dict:
    """``child`` over ``parent``: single variables of ``env_vars`` are merged, other fields
    replaced.
    """
    merged = {**parent, **child}
    if parent.get("env_vars") and "env_vars" in child:
        merged["env_vars"] = {**parent["env_vars"], **child["env_vars"]}
    return merged


def canonical(runtime_env: dict) -> str:
    """The text that equal environments share; "" for an empty one."""
    import json

    cleaned = {key: value for key, value in runtime_env.items() if value not in (None, {}, [])}
    return json.dumps(cleaned, sort_keys=True, separators=(",", ":")) if cleaned else ""


def prepare(runtime_env) -> dict:
    """A validated environment as plain JSON data, with directories replaced by the keys of their
    packages.
    """
    from .runtime_env import RuntimeEnv

    ensure_connected()
    env = dict(RuntimeEnv(**runtime_env))
    excludes = env.pop("excludes", None) or []
    if env.get("working_dir"):
        env["working_dir"] = _upload(env["working_dir"], excludes, keep_parent=False)
    if env.get("py_modules"):
        env["py_modules"] = [_upload_module(module, excludes) for module in env["py_modules"]]
    for tool in ("pip", "uv"):
        if env.get(tool):
            env[tool] = _install_request(env[tool], tool)
    if "env_vars" in env:
        env["env_vars"] = dict(env["env_vars"])
    hook = env.get("worker_process_setup_hook")
    if callable(hook):
        from ._export import export

        key = export(hook, "worker_process_setup_hook", repr(hook))
        _lay_down("fn", key.hex(), _core.kv_get("fn", key))
        env["worker_process_setup_hook"] = f"fn:{key.hex()}"
    if isinstance(env.get("config"), dict):
        env["config"] = dict(env["config"])
    return env


def _install_request(request, tool: str) -> dict:
    """``{"packages": [...], "options": [...], "check": bool}`` from a list, a requirements file or
    a dict.
    """
    if isinstance(request, str):
        request = _requirements(request)
    if isinstance(request, (list, tuple)):
        request = {"packages": list(request)}
    packages = request.get("packages") or []
    if isinstance(packages, str):
        packages = _requirements(packages)
    options = list(request.get(f"{tool}_install_options") or request.get("install_options") or [])
    return {
        "packages": [_absolute_requirement(p) for p in packages],
        "options": options,
        "check": bool(request.get(f"{tool}_check", False)),
        "version": request.get(f"{tool}_version") or "",
    }


def _requirements(path: str) -> list[str]:
    from .exceptions import RuntimeEnvSetupError

    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise ValueError(
            f"{path} is not a valid file: 'pip' takes a list, a requirements file, or a dict"
        )
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.split(" #")[0].strip() for line in file]
    except OSError as error:
        raise RuntimeEnvSetupError(
            f"The requirements file {path} cannot be read: {error}"
        ) from error
    return [line for line in lines if line and not line.startswith("#")]


def _absolute_requirement(requirement: str) -> str:
    if requirement.startswith((".", "~", "/")) and os.path.exists(os.path.expanduser(requirement)):
        return os.path.abspath(os.path.expanduser(requirement))
    return requirement


def _upload_module(module, excludes) -> str:
    if not isinstance(module, (str, os.PathLike)):
        paths = list(getattr(module, "__path__", ())) or [getattr(module, "__file__", None)]
        if not paths[0]:
            raise TypeError(f"py_modules: {module!r} has no file to send")
        module = paths[0]
    return _upload(os.fspath(module), excludes, keep_parent=True)


def _upload(path: str, excludes, keep_parent: bool) -> str:
    """Packs a directory, file, zip or wheel; returns ``pkg:<hash>[.whl]:<name>``; a key or file URL
    is kept.
    """
    from . import _package

    if path.startswith("pkg:"):
        return path
    if path.startswith("file://"):
        path = path[len("file://") :]
    if "://" in path:
        raise ValueError(
            f"{path}: only local directories, .zip and .whl files are supported in a runtime "
            "environment"
        )
    path = os.path.abspath(os.path.expanduser(path))
    if not os.path.exists(path):
        raise ValueError(f"{path} is not a directory or file that exists")
    fingerprint = (
        f"{path}|{sorted(excludes)}|{keep_parent}|{_package.newest_change(path, excludes)}"
    )
    known = _prepared.get(fingerprint)
    if known is not None and known[0] == state.generation:
        return known[1]
    key, data = _package.pack(path, [*_DEFAULT_EXCLUDES, *excludes], keep_parent, PACKAGE_LIMIT)
    _core.kv_put(PACKAGE_SPACE, key.encode(), data, False)
    _lay_down(PACKAGE_SPACE, key, data)
    _prepared[fingerprint] = (state.generation, f"pkg:{key}")
    return f"pkg:{key}"


def _lay_down(space: str, key: str, data: bytes) -> None:
    """A copy in the session directory: workers of this node read it before they are connected."""
    from ._runtime_env_worker import package_file

    path = package_file(state.session["session_dir"], space, key)
    if os.path.exists(path):
        return
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    partial = f"{path}.{os.getpid()}"
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    os.rename(partial, path)
