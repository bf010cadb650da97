"""`ActorGroup`: several actors of one class that are called together."""

from __future__ import annotations

import dataclasses

from .. import _api
from .._calls import get, wait

__all__ = ["ActorGroup", "ActorGroupMethod", "ActorWrapper"]


@dataclasses.dataclass
class ActorWrapper:
    """One member: its handle, and what its ``get_actor_metadata`` said."""

    actor: object
    metadata: object


class ActorGroupMethod:
    """One method of all members: ``group.name.remote(...)`` gives a reference for each."""

    def __init__(self, group: "ActorGroup", name: str):
        self._group = group
        self._name = name

    def __call__(self, *args, **kwargs):
        raise TypeError(
            "ActorGroup methods cannot be called directly. Instead of running "
            f"'object.{self._name}()', try 'object.{self._name}.remote()'."
        )

    def remote(self, *args, **kwargs) -> list:
        """Calls the method of every member; a list of references."""
        return [getattr(m.actor, self._name).remote(*args, **kwargs) for m in self._group.actors]


class ActorGroup:
    """Actors of one class, started, called and ended together.

    Args:
        actor_cls: a plain class. Its method ``get_actor_metadata`` may say what ``actor_metadata``
            will hold.
        num_actors: how many; ValueError unless positive.
        num_cpus_per_actor, num_gpus_per_actor, resources_per_actor: what each holds.
        init_args, init_kwargs: arguments of the constructor.
    """

    def __init__(
        self,
        actor_cls: type,
        num_actors: int = 1,
        num_cpus_per_actor: float = 1,
        num_gpus_per_actor: float = 0,
        resources_per_actor: dict | None = None,
        init_args: tuple | None = None,
        init_kwargs: dict | None = None,
    ):
        import warnings

        from .annotations import RayDeprecationWarning

        warnings.warn(
            "ActorGroup is deprecated: use ray.util.multiprocessing or a list of actors.",
            RayDeprecationWarning,
            stacklevel=2,
        )
        if num_actors <= 0:
            raise ValueError(f"num_actors must be positive, not {num_actors}.")
        if num_cpus_per_actor < 0 or num_gpus_per_actor < 0:
            raise ValueError("num_cpus_per_actor and num_gpus_per_actor must not be negative.")
        options = {"num_cpus": num_cpus_per_actor, "num_gpus": num_gpus_per_actor}
        options["resources"] = resources_per_actor or {}
        self._actor_cls = actor_cls
        self._remote_cls = _api.remote(**options)(actor_cls)
        self._init = (tuple(init_args or ()), dict(init_kwargs or {}))
        self._num_actors = num_actors
        self.actors: list[ActorWrapper] = []
        self.start()

    def start(self) -> None:
        """Starts the members; RuntimeError when they run."""
        if self.actors:
            raise RuntimeError("The actors were started already: call shutdown() first.")
        self.add_actors(self._num_actors)

    def shutdown(self, patience_s: float = 5) -> None:
        """Ends the members: after their calls if these take less than ``patience_s`` seconds."""
        members, self.actors = self.actors, []
        if patience_s > 0:
            ends = [member.actor.__ray_terminate__.remote() for member in members]
            wait(ends, num_returns=len(ends), timeout=patience_s) if ends else None
        for member in members:
            _api.kill(member.actor)

    def add_actors(self, num_actors: int) -> None:
        """Starts further members."""
        args, kwargs = self._init
        handles = [self._remote_cls.remote(*args, **kwargs) for _ in range(num_actors)]
        if hasattr(self._actor_cls, "get_actor_metadata"):
            told = get([handle.get_actor_metadata.remote() for handle in handles])
        else:
            told = [None] * num_actors
        self.actors += [ActorWrapper(handle, data) for handle, data in zip(handles, told)]

    def remove_actors(self, actor_indexes: list[int]) -> None:
        """Lets go of the members with these positions."""
        leaving = set(actor_indexes)
        self.actors = [m for index, m in enumerate(self.actors) if index not in leaving]

    @property
    def actor_metadata(self) -> list:
        """What each member's ``get_actor_metadata`` said."""
        return [member.metadata for member in self.actors]

    def __getattr__(self, name):
        if name.startswith("__") or not hasattr(self.__dict__.get("_actor_cls"), name):
            raise AttributeError(f"'ActorGroup' object has no attribute '{name}'")
        if not self.actors:
            raise RuntimeError("The actors of this group were shut down: call start() first.")
        return ActorGroupMethod(self, name)

    def __len__(self) -> int:
        return len(self.actors)

    def __getitem__(self, index) -> ActorWrapper:
        return self.actors[index]
