"""The exception tree. Names and kinship are those of Ray, so that handlers written for it work
unchanged.

A call that failed in user code raises `RayTaskError`; what is raised is at the same time an
instance of the user's own exception type, so both ``except ValueError`` and ``except RayTaskError``
catch it. Everything that the engine itself reports derives from `RayError` (also spelled
`SheafError`).
"""

from __future__ import annotations

import os

__all__ = [
    "ActorAlreadyExistsError",
    "ActorDiedError",
    "ActorHandleNotFoundError",
    "ActorPlacementGroupRemoved",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "AsyncioActorExit",
    "AuthenticationError",
    "CrossLanguageError",
    "GetTimeoutError",
    "LocalRayletDiedError",
    "NodeDiedError",
    "ObjectFetchTimedOutError",
    "ObjectFreedError",
    "ObjectLostError",
    "ObjectReconstructionFailedError",
    "ObjectRefStreamEndOfStreamError",
    "ObjectStoreFullError",
    "OufOfBandObjectRefSerializationException",
    "OutOfDiskError",
    "OutOfMemoryError",
    "OwnerDiedError",
    "PendingCallsLimitExceeded",
    "PlasmaObjectNotAvailable",
    "RayActorError",
    "RayCgraphCapacityExceeded",
    "RayChannelError",
    "RayChannelTimeoutError",
    "RayDirectTransportError",
    "RayError",
    "RaySystemError",
    "RayTaskError",
    "ReferenceCountingAssertionError",
    "RpcError",
    "RuntimeEnvSetupError",
    "SheafError",
    "StreamingGeneratorReplayInconsistentError",
    "TaskCancelledError",
    "TaskPlacementGroupRemoved",
    "TaskUnschedulableError",
    "UnserializableException",
    "UserCodeException",
    "WorkerCrashedError",
]


class RayError(Exception):
    """Root of everything that the engine raises on its own account."""

    def to_bytes(self) -> bytes:
        """This error as bytes, for storage; `from_bytes` is the inverse."""
        from . import _serialization

        return _serialization.cloudpickle_dumps(self)

    @staticmethod
    def from_bytes(data: bytes) -> "RayError":
        """The error that `to_bytes` wrote."""
        import pickle

        error = pickle.loads(data)
        if not isinstance(error, RayError):
            raise TypeError(f"the bytes hold a {type(error).__name__}, not an error of the engine")
        return error


SheafError = RayError


class _TextError(RayError):
    """An error whose whole content is one sentence; pickles by that sentence."""

    default = "The engine reported an error."

    def __init__(self, message: str | None = None):
        super().__init__(self.default if message is None else message)

    def __str__(self) -> str:
        return str(self.args[0])


class CrossLanguageError(_TextError):
    """A task or actor written in another language raised an exception."""

    default = "A function in another language raised an exception."


class TaskCancelledError(RayError):
    """The task was cancelled before it finished.

    Attributes: ``task_id`` (TaskID or None).
    """

    def __init__(self, task_id=None, error_message: str | None = None):
        self.task_id = task_id
        self.error_message = error_message
        super().__init__(task_id, error_message)

    def __str__(self) -> str:
        if self.error_message:
            return self.error_message
        return "This task or its dependency was cancelled" + (
            f": {self.task_id}" if self.task_id else "."
        )


class RayTaskError(RayError):
    """A task or actor method raised. ``cause`` is the user's exception, ``traceback_str`` what the
    worker saw.

    `as_instanceof_cause` gives the error that is raised to the caller: also an instance of the
    cause's type.
    """

    def __init__(
        self,
        function_name,
        traceback_str,
        cause,
        proctitle=None,
        pid=None,
        ip=None,
        actor_repr=None,
        actor_id=None,
    ):
        self.function_name = function_name
        self.traceback_str = traceback_str
        self.cause = cause
        self.proctitle = proctitle or function_name
        self.pid = os.getpid() if pid is None else pid
        self.ip = ip
        self.actor_repr = actor_repr
        self._actor_id = actor_id
        super().__init__(
            function_name, traceback_str, cause, self.proctitle, self.pid, ip, actor_repr, actor_id
        )

    def make_dual_exception_instance(self) -> "RayTaskError":
        """A new error that is also an instance of the type of ``cause``; TypeError when that type
        is final.
        """
        from . import _errors

        return _errors.dual_instance(self)

    def as_instanceof_cause(self) -> "RayTaskError":
        """This error as an instance of the cause's type where Python permits it, else this
        error.
        """
        from . import _errors

        return _errors.as_instanceof_cause(self)

    def __reduce__(self):
        from . import _errors

        return _errors.restore_task_error, _errors.task_error_parts(self)

    def __str__(self) -> str:
        return self.traceback_str.strip("\n")


class WorkerCrashedError(_TextError):
    """The worker process died while it ran the task: killed, out of memory, a segmentation fault,
    or an exit.
    """

    default = "The worker died unexpectedly while it ran this task."


class RayActorError(RayError):
    """A call to an actor failed for a reason that lies with the actor.

    Attributes: ``actor_id`` (hexadecimal or None), ``error_msg``, ``actor_init_failed``,
    ``preempted``.
    """

    BASE_ERROR_MSG = "The actor experienced an error before it finished this task."

    def __init__(
        self,
        actor_id: str | None = None,
        error_msg: str = BASE_ERROR_MSG,
        actor_init_failed: bool = False,
        preempted: bool = False,
    ):
        super().__init__(error_msg)
        self.actor_id = actor_id
        self.error_msg = error_msg
        self.actor_init_failed = actor_init_failed
        self._preempted = preempted

    @property
    def preempted(self) -> bool:
        """Whether the actor's node was taken away by its scheduler."""
        return self._preempted

    def __str__(self) -> str:
        return self.error_msg

    def __reduce__(self):
        return _rebuild_actor_error, (
            type(self),
            self.actor_id,
            self.error_msg,
            self.actor_init_failed,
            self._preempted,
            self.__cause__,
        )


def _rebuild_actor_error(cls, actor_id, error_msg, actor_init_failed, preempted, cause):
    error = cls.__new__(cls, error_msg)
    RayActorError.__init__(error, actor_id, error_msg, actor_init_failed, preempted)
    error.__cause__ = cause
    return error


class ActorDiedError(RayActorError):
    """The actor is dead for good. ``cause`` may be the `RayTaskError` that its constructor raised,
    or a sentence.
    """

    BASE_ERROR_MSG = "The actor died unexpectedly before it finished this task."

    def __init__(self, cause=None, actor_id: str | None = None):
        if isinstance(cause, RayTaskError):
            text = (
                "The actor died because of an error raised in its creation task, by its "
                f"constructor:\n{cause}"
            )
            super().__init__(
                actor_id or _hex_or_none(cause._actor_id), text, actor_init_failed=True
            )
            self.__cause__ = cause
        else:
            super().__init__(actor_id, str(cause) if cause else self.BASE_ERROR_MSG)

    @staticmethod
    def from_task_error(error: RayTaskError) -> "ActorDiedError":
        """The error of an actor whose constructor raised ``error``."""
        return ActorDiedError(error)


class ActorUnavailableError(RayActorError):
    """The actor cannot be reached now (it may be restarting); the call may have run or not. Try
    again later.
    """

    def __init__(self, error_message: str = "The actor is temporarily unavailable.", actor_id=None):
        super().__init__(_hex_or_none(actor_id), error_message)


class NodeDiedError(_TextError):
    """The node that ran the task or held the object died."""

    default = "The node died."


class OutOfMemoryError(_TextError):
    """A worker was killed, or an allocation refused, because the machine is out of memory."""

    default = "Out of memory."


class OutOfDiskError(_TextError):
    """The disk that objects are spilled to is full."""

    default = "The local disk is full, so objects cannot be spilled to it."


class ObjectStoreFullError(_TextError):
    """The object store stayed full for longer than the configured wait. The text names who pins
    what.
    """

    default = "The object store is full."


class RaySystemError(RayError):
    """The engine itself failed; ``traceback_str`` has more where there is more."""

    def __init__(self, client_exc=None, traceback_str=None):
        super().__init__(client_exc, traceback_str)
        self.client_exc = client_exc
        self.traceback_str = traceback_str

    def __str__(self) -> str:
        text = f"System error: {self.client_exc}"
        return text + (f"\ntraceback: {self.traceback_str}" if self.traceback_str else "")


class UserCodeException(RayError):
    """User code raised an exception where the engine called it."""


class UnserializableException(_TextError):
    """An exception that arrived could not be read here; the text holds what the sender knew of
    it.
    """

    default = "The exception could not be deserialised."


class RpcError(RayError):
    """A request to another process failed."""

    def __init__(self, message="The request failed.", rpc_code=None):
        super().__init__(message, rpc_code)
        self.message = message
        self.rpc_code = rpc_code

    def __str__(self) -> str:
        return str(self.message)


class AuthenticationError(_TextError):
    """The cluster refused this process: it belongs to another user or another cluster."""

    default = "The cluster refused this process."


class ObjectLostError(RayError):
    """An object's value is gone and cannot be made again. ``object_ref_hex`` names it."""

    reason = "All copies of the object are lost, for example because its node died."

    def __init__(self, object_ref_hex: str = "", owner_address=None, call_site: str = ""):
        super().__init__(object_ref_hex, owner_address, call_site)
        self.object_ref_hex = object_ref_hex
        self.owner_address = owner_address
        self.call_site = (call_site or "").replace("|", "\n")

    def __str__(self) -> str:
        what = f"Object {self.object_ref_hex}" if self.object_ref_hex else "The object"
        return f"{what} cannot be retrieved. {self.call_site or self.reason}"


class ObjectFetchTimedOutError(ObjectLostError):
    """Fetching the object from another node took too long."""

    reason = "Fetching it from another node timed out."


class ReferenceCountingAssertionError(ObjectLostError, AssertionError):
    """The object was deleted although a reference to it was alive: a defect of the engine."""

    reason = "It was deleted while a reference to it was alive."


class ObjectFreedError(ObjectLostError):
    """The object was freed by hand while references to it were alive."""

    reason = "It was freed by hand."


class OwnerDiedError(ObjectLostError):
    """The process or node that answers for the object died."""

    reason = "The process that owned it died."


class ObjectReconstructionFailedError(ObjectLostError):
    """The lost object could not be made again by running its task anew."""

    reason = "Running its task again did not bring it back."

    def __init__(
        self,
        object_ref_hex: str = "",
        reason=None,
        reason_message: str | None = None,
        owner_address=None,
        call_site: str = "",
    ):
        super().__init__(object_ref_hex, owner_address, call_site)
        self.reason_code = reason
        self.reason_message = reason_message
        if reason_message:
            self.reason = reason_message


class GetTimeoutError(RayError, TimeoutError):
    """`get` did not see all values within its timeout."""


class PlasmaObjectNotAvailable(RayError):
    """The object is not in this node's store."""


class AsyncioActorExit(RayError):
    """Raised inside an async actor to unwind the method that called `exit_actor`."""


class RuntimeEnvSetupError(_TextError):
    """A runtime environment could not be set up, so the task or actor cannot run. The text says
    why.
    """

    default = "Setting up the runtime environment failed."

    def __init__(self, error_message: str | None = None):
        super().__init__(error_message)
        self.error_message = error_message


class TaskPlacementGroupRemoved(RayError):
    """The placement group of the task was removed."""

    def __str__(self) -> str:
        return (
            str(self.args[0]) if self.args else "The placement group of this task has been removed."
        )


class ActorPlacementGroupRemoved(ActorDiedError):
    """The placement group of the actor was removed, and the actor has ended with it."""

    BASE_ERROR_MSG = "The placement group of this actor has been removed."


class PendingCallsLimitExceeded(RayError):
    """More calls to the actor are unanswered than its ``max_pending_calls`` permits."""


class LocalRayletDiedError(_TextError):
    """The node daemon of this machine is gone; nothing will become ready any more."""

    default = "The node daemon of this machine died."


class TaskUnschedulableError(_TextError):
    """The task can never be placed, for example because the node it names is gone."""

    default = "The task cannot be placed."

    def __init__(self, error_message: str | None = None):
        super().__init__(error_message)
        self.error_message = error_message


class ActorUnschedulableError(_TextError):
    """The actor can never be placed."""

    default = "The actor cannot be placed."

    def __init__(self, error_message: str | None = None):
        super().__init__(error_message)
        self.error_message = error_message


class ActorAlreadyExistsError(ValueError, RayError):
    """The actor's name is taken in its namespace."""

    def __init__(self, error_message: str = "An actor of this name exists already."):
        super().__init__(error_message)
        self.error_message = error_message

    def __str__(self) -> str:
        return self.error_message


class ActorHandleNotFoundError(ValueError, RayError):
    """The handle belongs to no actor of this cluster."""

    def __init__(self, error_message: str = "The actor is not known to this cluster."):
        super().__init__(error_message)
        self.error_message = error_message

    def __str__(self) -> str:
        return self.error_message


class ObjectRefStreamEndOfStreamError(RayError):
    """The generator has no further item."""


class StreamingGeneratorReplayInconsistentError(RaySystemError):
    """A generator that was run again yielded a different number of items than before."""


class OufOfBandObjectRefSerializationException(RayError):
    """A reference was pickled outside of the engine where that is forbidden."""


class RayChannelError(RaySystemError):
    """A channel failed."""


class RayChannelTimeoutError(RayChannelError, TimeoutError):
    """A channel operation timed out."""


class RayCgraphCapacityExceeded(RaySystemError):
    """Too many executions of a compiled graph are in flight."""


class RayDirectTransportError(RaySystemError):
    """A direct transfer between devices failed."""


def _hex_or_none(actor_id) -> str | None:
    if actor_id is None or isinstance(actor_id, str):
        return actor_id or None
    return actor_id.hex()
