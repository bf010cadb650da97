"""Settings of a job, for programs that pass ``init(job_config=...)``."""

from __future__ import annotations


class JobConfig:
    """A job's namespace, runtime environment and metadata, as one object.

    Args:
        runtime_env: its environment.
        metadata: what people note about it, str to str.
        ray_namespace: where its named actors live.
    """

    def __init__(
        self,
        jvm_options=None,
        code_search_path=None,
        runtime_env: dict | None = None,
        _client_job: bool = False,
        metadata: dict | None = None,
        ray_namespace: str | None = None,
        default_actor_lifetime: str = "non_detached",
        _py_driver_sys_path=None,
    ):
        self.runtime_env = runtime_env
        self.metadata = metadata or {}
        self.ray_namespace = ray_namespace
        self.code_search_path = code_search_path

    def set_metadata(self, key: str, value: str) -> None:
        """Adds one note."""
        self.metadata[key] = value

    def set_runtime_env(self, runtime_env: dict | None, validate: bool = False) -> None:
        """The job's environment."""
        self.runtime_env = runtime_env

    def set_ray_namespace(self, ray_namespace: str) -> None:
        """The job's namespace."""
        self.ray_namespace = ray_namespace
