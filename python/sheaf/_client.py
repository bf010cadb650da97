"""Ray's client builder, for programs that use it: ``client(address).namespace(...).connect()`` is
`init`.
"""

from __future__ import annotations


class ClientBuilder:
    """Collects arguments of `sheaf.init`; ``connect()`` calls it."""

    def __init__(self, address: str | None = None):
        self._address = address
        self._arguments: dict = {}

    def env(self, env: dict) -> "ClientBuilder":
        """The job's runtime environment."""
        self._arguments["runtime_env"] = env
        return self

    def namespace(self, namespace: str) -> "ClientBuilder":
        """The job's namespace."""
        self._arguments["namespace"] = namespace
        return self

    def connect(self):
        """Joins the cluster; gives what `sheaf.init` gives."""
        from ._cluster import init

        return init(self._address, **self._arguments)


def client(address: str | None = None) -> ClientBuilder:
    """A builder for a connection to ``address`` (see `sheaf.init`)."""
    return ClientBuilder(address)
