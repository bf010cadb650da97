"""A joblib backend: ``joblib.parallel_backend("sheaf")`` (or "ray") runs joblib's work,
scikit-learn's too, here.
"""

from __future__ import annotations

__all__ = ["register_ray", "register_sheaf"]


def register_sheaf() -> None:
    """Makes the backend known to joblib under the names "sheaf" and "ray"; ImportError without
    joblib.

    Example::

        register_sheaf()
        with joblib.parallel_backend("sheaf"):
            search.fit(data, target)
    """
    try:
        from joblib.parallel import register_parallel_backend
    except ImportError as error:
        raise ImportError("The joblib backend needs joblib: pip install joblib") from error
    from .backend import SheafBackend

    register_parallel_backend("sheaf", SheafBackend)
    register_parallel_backend("ray", SheafBackend)


register_ray = register_sheaf
