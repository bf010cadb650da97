"""Runtime environments on the worker's side: made once per node, then entered by each worker before
user code runs.

Everything lives in ``<session>/runtime_env/``: one directory per package or set of installed
packages, appearing whole under a file lock, so that a set-up killed half-way leaves nothing that
looks finished.
"""

from __future__ import annotations

import json
import os
import re
import sys

from .exceptions import RuntimeEnvSetupError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_DONE = ".done"


def apply_in_worker(runtime_env_json: str, job: dict, session_dir: str | None = None) -> None:
    """Makes this process's environment what the JSON says; called before the worker is connected.

    Sets variables, the current directory and import paths, and runs the set-up hook. Raises
    RuntimeEnvSetupError with a text for the driver when any of it fails.
    """
    text = runtime_env_json or (job or {}).get("runtime_env") or ""
    if not text:
        return
    try:
        _apply(json.loads(text), session_dir or _session_dir())
    except RuntimeEnvSetupError:
        raise
    except Exception as error:
        raise RuntimeEnvSetupError(
            f"Setting up the runtime environment failed: {error!r}"
        ) from error


def _session_dir() -> str:
    from . import _core

    return _core.session()["session_dir"]


def _apply(env: dict, session_dir: str) -> None:
    cache = os.path.join(session_dir, "runtime_env")
    os.makedirs(cache, mode=0o700, exist_ok=True)
    timeout = (env.get("config") or {}).get("setup_timeout_seconds", 600)
    for name, value in (env.get("env_vars") or {}).items():
        os.environ[name] = expand(value, os.environ)
    for tool in ("pip", "uv"):
        if env.get(tool) and env[tool].get("packages"):
            _enter_site(_installed(env[tool], tool, cache, timeout))
    for module in reversed(env.get("py_modules") or []):
        _import_first(_package(module, cache, session_dir))
    if env.get("working_dir"):
        folder = _package(env["working_dir"], cache, session_dir)
        os.chdir(folder)
        _import_first(folder)
        os.environ["SHEAF_WORKING_DIR"] = folder
    if env.get("worker_process_setup_hook"):
        _run_hook(env["worker_process_setup_hook"], session_dir)


def expand(value: str, variables) -> str:
    """``value`` with ``${NAME}`` replaced by variables; an unknown name becomes nothing."""
    return _VARIABLE.sub(lambda match: variables.get(match.group(1), ""), value)


def _import_first(folder: str) -> None:
    if folder in sys.path:
        sys.path.remove(folder)
    sys.path.insert(0, folder)
    paths = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = folder + (os.pathsep + paths if paths else "")


def _enter_site(folder: str) -> None:
    import site

    before = list(sys.path)
    site.addsitedir(folder)
    added = [path for path in sys.path if path not in before]
    sys.path[:] = added + before  # what the job asked for wins over what the interpreter has
    _import_first(folder)
    binaries = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(folder))), "bin")
    os.environ["PATH"] = binaries + os.pathsep + os.environ.get("PATH", "")


class _Locked:
    """Holds ``<path>.lock`` against other processes of this node; freed by the kernel when its
    holder dies.
    """

    def __init__(self, path: str):
        self.path = path + ".lock"

    def __enter__(self):
        import fcntl

        self.fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self.fd, fcntl.LOCK_EX)

    def __exit__(self, *_):
        os.close(self.fd)


def _package(uri: str, cache: str, session_dir: str) -> str:
    """The directory that holds the unpacked package ``pkg:<key>``."""
    key = uri[len("pkg:") :]
    target = os.path.join(cache, re.sub(r"[^A-Za-z0-9]", "_", key.split(".")[0].split(":")[0]))
    if os.path.isdir(target):
        return target
    with _Locked(target):
        if not os.path.isdir(target):
            from ._package import unpack

            unpack(_fetch("pkg", key, session_dir), target)
    return target


def package_file(session_dir: str, space: str, key: str) -> str:
    """Where a driver on this node has laid a package or function for workers that are not connected
    yet.
    """
    return os.path.join(session_dir, "runtime_env", f"{space}-{re.sub(r'[^A-Za-z0-9.]', '_', key)}")


def _fetch(space: str, key: str, session_dir: str) -> bytes:
    path = package_file(session_dir, space, key)
    if not os.path.exists(path):
        _fetch_to_file(space, key, session_dir, path)
    with open(path, "rb") as file:
        return file.read()


def _fetch_to_file(space: str, key: str, session_dir: str, path: str) -> None:
    # A process connects once in its life, and this one is to become a worker: another process asks.
    import subprocess

    command = [sys.executable, "-m", "sheaf._fetch", session_dir, space, key, path]
    result = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if result.returncode != 0:
        raise RuntimeEnvSetupError(
            f"The package {key} could not be fetched: {result.stderr.strip()}"
        )


def _run_hook(hook: str, session_dir: str) -> None:
    try:
        if hook.startswith("fn:"):
            import pickle

            function = pickle.loads(_fetch("fn", hook[len("fn:") :], session_dir))
        else:
            import importlib

            module, _, name = hook.rpartition(".")
            function = getattr(importlib.import_module(module), name)
        function()
    except RuntimeEnvSetupError:
        raise
    except BaseException as error:
        import traceback

        raise RuntimeEnvSetupError(
            f"The worker_process_setup_hook {hook} failed:\n{traceback.format_exc()}"
        ) from error


def _installed(request: dict, tool: str, cache: str, timeout: float) -> str:
    """The site directory of a virtual environment with these packages; made by the first worker
    that needs it.
    """
    import hashlib

    identity = json.dumps([tool, request, sys.version, sys.prefix], sort_keys=True)
    target = os.path.join(cache, f"{tool}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}")
    site_dir = os.path.join(
        target, "lib", f"python{sys.version_info[0]}.{sys.version_info[1]}", "site-packages"
    )
    if os.path.exists(os.path.join(target, _DONE)):
        return site_dir
    with _Locked(target):
        failed = target + ".failed"
        if os.path.exists(failed):
            with open(failed, encoding="utf-8") as file:
                raise RuntimeEnvSetupError(file.read())
        if not os.path.exists(os.path.join(target, _DONE)):
            try:
                _install(request, tool, target, timeout)
            except RuntimeEnvSetupError as error:
                with open(failed, "w", encoding="utf-8") as file:
                    file.write(str(error))
                raise
            with open(os.path.join(target, _DONE), "w", encoding="utf-8"):
                pass
    return site_dir


def _install(request: dict, tool: str, target: str, timeout: float) -> None:
    import shutil

    shutil.rmtree(target, ignore_errors=True)
    limit = None if timeout == -1 else timeout
    _command(
        [sys.executable, "-m", "venv", "--system-site-packages", "--without-pip", target], limit
    )
    python = os.path.join(target, "bin", "python")
    site_dirs = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    with open(
        os.path.join(
            target,
            "lib",
            f"python{sys.version_info[0]}.{sys.version_info[1]}",
            "site-packages",
            "_parent.pth",
        ),
        "w",
        encoding="utf-8",
    ) as file:
        file.write(
            "\n".join(site_dirs) + "\n"
        )  # a venv on a venv sees only the interpreter underneath
    uv = shutil.which("uv") if tool == "uv" else None
    if uv:
        command = [uv, "pip", "install", "--python", python]
    else:
        command = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            python,
            "install",
            "--disable-pip-version-check",
            "--no-input",
        ]
        if not _pip_takes_python():
            command = [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    _command([*command, *request.get("options", []), *request["packages"]], limit)
    if request.get("check"):
        _command([python, "-m", "pip", "check"], limit)


def _pip_takes_python() -> bool:
    try:
        from importlib.metadata import version

        return tuple(int(part) for part in version("pip").split(".")[:2]) >= (22, 3)
    except Exception:
        return False


def _command(command: list[str], timeout) -> None:
    import subprocess

    environment = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    try:
        result = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            env=environment,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeEnvSetupError(f"{' '.join(command)} took longer than {timeout} s") from None
    except OSError as error:
        raise RuntimeEnvSetupError(f"{' '.join(command)}: {error}") from error
    if result.returncode != 0:
        tail = "\n".join(result.stdout.strip().splitlines()[-20:])
        raise RuntimeEnvSetupError(
            f"{' '.join(command)} failed with status {result.returncode}:\n{tail}"
        )
