"""Requests to an autoscaler."""

from __future__ import annotations

__all__ = ["request_resources"]


def request_resources(
    num_cpus: int | None = None,
    bundles: list[dict] | None = None,
    bundle_label_selectors: list[dict] | None = None,
) -> None:
    """Checks its arguments and does nothing: the cluster has the nodes that it has, as a cluster of
    Ray's without an autoscaler.
    """
    if num_cpus is not None and (isinstance(num_cpus, bool) or not isinstance(num_cpus, int)):
        raise TypeError("num_cpus should be of type int.")
    if bundles is not None:
        if not isinstance(bundles, list) or not all(isinstance(b, dict) for b in bundles):
            raise TypeError("bundles should be of type List[Dict].")
        if not all(isinstance(n, (int, float)) for b in bundles for n in b.values()):
            raise TypeError("each bundle value should be a number.")
    if bundle_label_selectors is not None and len(bundle_label_selectors) != len(bundles or ()):
        raise ValueError("bundle_label_selectors should be as long as bundles.")
