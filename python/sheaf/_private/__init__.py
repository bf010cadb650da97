"""The few private names of Ray that popular programs use. Nothing of Sheaf's own depends on
them.
"""

from __future__ import annotations


def __getattr__(name: str):
    import importlib

    if name in ("config", "internal_api", "raylet", "services", "worker"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
