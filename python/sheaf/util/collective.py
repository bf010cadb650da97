"""Collective operations among actors. Their algorithms come with a later version: every call
raises.
"""

from __future__ import annotations

_NAMES = (
    "allgather",
    "allgather_multigpu",
    "allreduce",
    "allreduce_multigpu",
    "barrier",
    "broadcast",
    "broadcast_multigpu",
    "create_collective_group",
    "destroy_collective_group",
    "get_collective_group_size",
    "get_group_handle",
    "get_rank",
    "init_collective_group",
    "recv",
    "recv_multigpu",
    "reduce",
    "reduce_multigpu",
    "reducescatter",
    "reducescatter_multigpu",
    "register_collective_backend",
    "send",
    "send_multigpu",
)

__all__ = [
    *_NAMES,
    "gloo_available",
    "is_backend_available",
    "is_group_initialized",
    "nccl_available",
]


def nccl_available() -> bool:
    """Whether NCCL groups can be made: not in this version."""
    return False


def gloo_available() -> bool:
    """Whether Gloo groups can be made: not in this version."""
    return False


def is_backend_available(backend: str) -> bool:
    """Whether groups of this backend can be made: not in this version."""
    return False


def is_group_initialized(group_name: str = "default") -> bool:
    """Whether this process belongs to the group: never in this version."""
    return False


def __getattr__(name: str):
    if name not in _NAMES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")

    def unsupported(*args, **kwargs):
        raise NotImplementedError(
            f"collective.{name}: collectives are not part of this version yet."
        )

    unsupported.__name__ = name
    return unsupported
