"""Identities as Python objects: small, immutable, hashable, printed as hexadecimal digits.

Every identity is made by the process that needs one and never reused. Two identities are equal when
their type and their bytes are equal.
"""

from __future__ import annotations

import os


class BaseID:
    """An identity of ``SIZE`` bytes.

    Example::

        actor_id = ActorID.from_hex("00" * 16)
        assert actor_id.is_nil() and len(actor_id.binary()) == ActorID.size()
    """

    SIZE = 16
    __slots__ = ("_binary",)

    def __init__(self, binary: bytes):
        if not isinstance(binary, (bytes, bytearray, memoryview)):
            raise TypeError(
                f"{type(self).__name__} is made from bytes, not {type(binary).__name__}"
            )
        if len(binary) != self.SIZE:
            raise ValueError(f"{type(self).__name__} takes {self.SIZE} bytes, got {len(binary)}")
        object.__setattr__(self, "_binary", bytes(binary))

    def __setattr__(self, name, value):
        raise AttributeError(f"{type(self).__name__} is immutable")

    def binary(self) -> bytes:
        """The raw bytes."""
        return self._binary

    def hex(self) -> str:
        """The bytes as lower-case hexadecimal digits."""
        return self._binary.hex()

    def is_nil(self) -> bool:
        """Whether this is the identity of nothing."""
        return not any(self._binary) or self._binary == b"\xff" * self.SIZE

    @classmethod
    def size(cls) -> int:
        """Number of bytes of such an identity."""
        return cls.SIZE

    @classmethod
    def nil(cls):
        """The identity of nothing."""
        return cls(bytes(cls.SIZE))

    @classmethod
    def from_hex(cls, text: str):
        """The identity that ``hex()`` printed as ``text``; ValueError when it is malformed."""
        if isinstance(text, bytes):
            text = text.decode("ascii")
        return cls(bytes.fromhex(text))

    @classmethod
    def from_binary(cls, binary: bytes):
        """The identity with these bytes."""
        return cls(binary)

    @classmethod
    def from_random(cls):
        """A random identity, for tests."""
        return cls(os.urandom(cls.SIZE))

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._binary))

    def __eq__(self, other) -> bool:
        return type(other) is type(self) and other._binary == self._binary

    def __ne__(self, other) -> bool:
        return not self == other

    def __lt__(self, other) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._binary < other._binary

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.hex()})"

    def __reduce__(self):
        return type(self), (self._binary,)


class UniqueID(BaseID):
    """Any identity that has no type of its own."""

    __slots__ = ()


class TaskID(BaseID):
    """One call of a task or actor method."""

    __slots__ = ()

    def job_id(self) -> "JobID":
        """The job of this process."""
        return _own_job()


class ActorID(BaseID):
    """One actor; it keeps its identity when it is restarted."""

    __slots__ = ()

    @property
    def job_id(self) -> "JobID":
        """The job of this process."""
        return _own_job()


class NodeID(BaseID):
    """One node daemon; a restarted node has a new identity."""

    __slots__ = ()


class PlacementGroupID(BaseID):
    """One placement group."""

    __slots__ = ()


class WorkerID(BaseID):
    """One worker or driver process."""

    __slots__ = ()

    @classmethod
    def from_process(cls, process: int) -> "WorkerID":
        """The identity of a process of the cluster."""
        return cls(process.to_bytes(8, "big") + bytes(8))


class FunctionID(BaseID):
    """128 bits of the hash of a function's or class's definition."""

    __slots__ = ()


class ActorClassID(BaseID):
    """128 bits of the hash of an actor class's definition."""

    __slots__ = ()


class ClusterID(BaseID):
    """One cluster."""

    __slots__ = ()


class JobID(BaseID):
    """One job, that is, one driver."""

    SIZE = 4
    __slots__ = ()

    @classmethod
    def from_int(cls, number: int) -> "JobID":
        """The identity of job ``number``."""
        return cls(int(number).to_bytes(4, "big"))

    def int(self) -> int:
        """The job's number."""
        return _number(self._binary)


def _own_job() -> JobID:
    from ._state import state

    job = state.job_id
    if not state.mode:
        return JobID.nil()
    return JobID.from_int(job if isinstance(job, int) else _number(binary_of(job)))


def _number(binary: bytes) -> int:
    return int.from_bytes(binary, "big")


def hex_of(value) -> str:
    """Hexadecimal digits of an identity given as bytes, hex text or an ID object; "" for None."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    return value.hex()


def binary_of(value) -> bytes:
    """Raw bytes of an identity given as bytes, hex text or an ID object."""
    if isinstance(value, str):
        return bytes.fromhex(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    return value.binary()
