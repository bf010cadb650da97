"""The names of `_client` under the module name that programs written for Ray import."""

from ._client import ClientBuilder, client  # noqa: F401
