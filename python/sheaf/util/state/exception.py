"""Errors of the state API."""

from __future__ import annotations

__all__ = ["DataSourceUnavailable", "RayStateApiException", "ServerUnavailable"]


class RayStateApiException(Exception):
    """A question to the cluster's state was not answered in full."""


class ServerUnavailable(RayStateApiException):
    """Nobody answers at that address."""


class DataSourceUnavailable(Exception):
    """A node or a worker did not answer."""
