"""Descriptions of the environment that tasks and actors run in, checked when they are made."""

from __future__ import annotations

__all__ = ["RuntimeEnv", "RuntimeEnvConfig"]

_UNSUPPORTED = {
    "conda": "conda environments",
    "container": "containers",
    "image_uri": "container images",
    "nsight": "the nsight profiler",
    "_nsight": "the nsight profiler",
    "rocprof_sys": "the rocprof profiler",
    "java_jars": "Java",
}


class RuntimeEnvConfig(dict):
    """How an environment is set up.

    Args:
        setup_timeout_seconds: limit of the set-up in seconds, -1 for none.
        eager_install: accepted for compatibility; environments are set up when a worker first needs
            them.
        log_files: accepted for compatibility.
    """

    known_fields = {"setup_timeout_seconds", "eager_install", "log_files"}

    def __init__(
        self, setup_timeout_seconds: int = 600, eager_install: bool = True, log_files=None
    ):
        super().__init__()
        if isinstance(setup_timeout_seconds, bool) or not isinstance(setup_timeout_seconds, int):
            raise TypeError(
                f"setup_timeout_seconds must be an int, got {type(setup_timeout_seconds)}"
            )
        if setup_timeout_seconds < -1 or setup_timeout_seconds == 0:
            raise ValueError(
                f"setup_timeout_seconds must be positive or -1, got {setup_timeout_seconds}"
            )
        if not isinstance(eager_install, bool):
            raise TypeError(f"eager_install must be a bool, got {type(eager_install)}")
        if log_files is not None and not (
            isinstance(log_files, list) and all(isinstance(name, str) for name in log_files)
        ):
            raise TypeError(f"log_files must be a list of str, got {log_files!r}")
        self["setup_timeout_seconds"] = setup_timeout_seconds
        self["eager_install"] = eager_install
        self["log_files"] = log_files or []

    def to_dict(self) -> dict:
        """A plain dict of the fields."""
        return dict(self)

    @classmethod
    def parse_and_validate_runtime_env_config(cls, config) -> "RuntimeEnvConfig":
        """A config from a config or a plain dict; TypeError for anything else."""
        if isinstance(config, RuntimeEnvConfig):
            return config
        if not isinstance(config, dict):
            raise TypeError(
                f"runtime_env['config'] must be a RuntimeEnvConfig or dict, got {type(config)}"
            )
        unknown = set(config) - cls.known_fields
        if unknown:
            raise ValueError(f"runtime_env['config'] has unknown fields {sorted(unknown)}")
        return cls(**config)


class RuntimeEnv(dict):
    """The environment of a job, task or actor; a dict, so that a plain dict with the same keys does
    as well.

    Args:
        working_dir: directory or .zip that becomes the workers' current directory and first import
            path.
        py_modules: directories, modules or .whl files that workers can import.
        py_executable: the interpreter of the workers; only the driver's own is possible.
        pip: packages as a list, a requirements file's path, or ``{"packages": [...],
            "pip_install_options": ["--no-index", "--find-links", DIR]}``.
        uv: the same, installed by uv (pip where there is no uv).
        env_vars: variables of the workers; ``${NAME}`` stands for the value before.
        worker_process_setup_hook: a function, or "module.function", run first in each worker.
        config: a `RuntimeEnvConfig` or dict.
        excludes: git-ignore patterns of files that are not sent.

    Raises: ValueError or TypeError that names the field.

    Example::

        sheaf.init(runtime_env={"working_dir": ".", "env_vars": {"MODE": "test"}})
    """

    known_fields = {
        "py_modules",
        "py_executable",
        "working_dir",
        "pip",
        "uv",
        "conda",
        "container",
        "image_uri",
        "env_vars",
        "worker_process_setup_hook",
        "nsight",
        "rocprof_sys",
        "config",
        "excludes",
        "java_jars",
        "java_jvm_options",
    }

    def __init__(
        self,
        *,
        py_modules=None,
        py_executable=None,
        working_dir=None,
        pip=None,
        conda=None,
        container=None,
        env_vars=None,
        worker_process_setup_hook=None,
        nsight=None,
        rocprof_sys=None,
        config=None,
        _validate=True,
        image_uri=None,
        uv=None,
        **kwargs,
    ):
        super().__init__()
        fields = dict(
            py_modules=py_modules,
            py_executable=py_executable,
            working_dir=working_dir,
            pip=pip,
            conda=conda,
            container=container,
            env_vars=env_vars,
            worker_process_setup_hook=worker_process_setup_hook,
            nsight=nsight,
            rocprof_sys=rocprof_sys,
            config=config,
            image_uri=image_uri,
            uv=uv,
            **kwargs,
        )
        for name, value in fields.items():
            if value is not None:
                self[name] = value
        if _validate:
            self._check_fields()

    def __setitem__(self, name, value):
        if name not in self.known_fields and not name.startswith("_"):
            raise ValueError(
                f"runtime_env has no field {name!r}; its fields are {sorted(self.known_fields)}"
            )
        super().__setitem__(name, value)

    def set(self, name: str, value) -> None:
        """Sets one field."""
        self[name] = value
        self._check_fields()

    def to_dict(self) -> dict:
        """A plain dict of the fields."""
        return dict(self)

    def serialize(self) -> str:
        """JSON text; equal environments give equal text."""
        import json

        return json.dumps(dict(self), sort_keys=True)

    @classmethod
    def deserialize(cls, text: str) -> "RuntimeEnv":
        """The environment that `serialize` wrote."""
        import json

        return cls(_validate=False, **json.loads(text))

    def env_vars(self) -> dict:
        """The variables it sets."""
        return self.get("env_vars", {})

    def working_dir(self) -> str:
        """The working directory, "" for none."""
        return self.get("working_dir", "")

    def py_modules(self) -> list:
        """The modules it sends."""
        return self.get("py_modules", [])

    def has_pip(self) -> bool:
        """Whether it installs packages by pip."""
        return bool(self.get("pip"))

    def has_uv(self) -> bool:
        """Whether it installs packages by uv."""
        return bool(self.get("uv"))

    def has_working_dir(self) -> bool:
        """Whether it sends a working directory."""
        return bool(self.get("working_dir"))

    def _check_fields(self) -> None:
        for name, what in _UNSUPPORTED.items():
            if self.get(name):
                raise ValueError(f"runtime_env[{name!r}]: {what} are not supported by this version")
        if self.get("pip") and self.get("uv"):
            raise ValueError("runtime_env: 'pip' and 'uv' cannot both be given")
        _check_text(self, "working_dir")
        _check_text(self, "py_executable")
        _check_interpreter(self.get("py_executable"))
        modules = self.get("py_modules")
        if modules is not None and not isinstance(modules, (list, tuple)):
            raise TypeError(f"runtime_env['py_modules'] must be a list, got {type(modules)}")
        _check_env_vars(self.get("env_vars"))
        for tool in ("pip", "uv"):
            _check_packages(self.get(tool), tool)
        hook = self.get("worker_process_setup_hook")
        if hook is not None and not callable(hook) and not isinstance(hook, str):
            raise TypeError(
                "runtime_env['worker_process_setup_hook'] must be a function or "
                f"'module.function', got {type(hook)}"
            )
        if isinstance(hook, str) and "." not in hook and not hook.startswith("fn:"):
            raise ValueError(
                f"runtime_env['worker_process_setup_hook'] {hook!r} is not of the form "
                "'module.function'"
            )
        excludes = self.get("excludes")
        if excludes is not None and not (
            isinstance(excludes, list) and all(isinstance(item, str) for item in excludes)
        ):
            raise TypeError(f"runtime_env['excludes'] must be a list of str, got {excludes!r}")
        if "config" in self:
            self["config"] = RuntimeEnvConfig.parse_and_validate_runtime_env_config(self["config"])


def _check_interpreter(program) -> None:
    import os
    import shutil
    import sys

    if program is None:
        return
    found = shutil.which(program)
    if found is None or os.path.abspath(found) != os.path.abspath(sys.executable):
        raise ValueError(
            f"runtime_env['py_executable'] {program!r}: workers are forks of one interpreter, the "
            f"driver's ({sys.executable}); start the driver with the other one instead."
        )


def _check_text(env: dict, name: str) -> None:
    value = env.get(name)
    if value is not None and not isinstance(value, str) and not hasattr(value, "__fspath__"):
        raise TypeError(f"runtime_env[{name!r}] must be a str, got {type(value)}")
    if value is not None and not isinstance(value, str):
        env[name] = value.__fspath__()


def _check_env_vars(variables) -> None:
    if variables is None:
        return
    if not isinstance(variables, dict):
        raise TypeError(
            f"runtime_env['env_vars'] must be of type Dict[str, str], got {type(variables)}"
        )
    for name, value in variables.items():
        if not isinstance(name, str):
            raise TypeError(
                f"runtime_env['env_vars'] must be of type Dict[str, str], but the key {name!r} is "
                f"of type {type(name)}"
            )
        if not isinstance(value, str):
            raise TypeError(
                f"runtime_env['env_vars'] must be of type Dict[str, str], but the value {value!r} "
                "of "
                f"{name!r} is of type {type(value)}"
            )


def _check_packages(request, tool: str) -> None:
    if request is None:
        return
    if isinstance(request, dict):
        known = {
            "packages",
            f"{tool}_check",
            f"{tool}_version",
            f"{tool}_install_options",
            "install_options",
            "options",
            "check",
            "version",
        }
        unknown = set(request) - known
        if unknown:
            raise ValueError(
                f"runtime_env[{tool!r}] has unknown keys {sorted(unknown)}; known are "
                f"{sorted(known)}"
            )
        if "packages" not in request:
            raise ValueError(f"runtime_env[{tool!r}] must include 'packages'")
        request = request["packages"]
    if isinstance(request, str):
        return
    if not isinstance(request, (list, tuple)) or not all(isinstance(item, str) for item in request):
        raise TypeError(
            f"runtime_env[{tool!r}] must be a list of str, a path or a dict, got {request!r}"
        )
