"""Serialisers of one's own for types that pickle badly or not at all."""

from __future__ import annotations

import copyreg


class _Reducer:
    """What pickle calls for an instance: gives the deserialiser and what the serialiser made."""

    def __init__(self, serializer, deserializer):
        self.serializer = serializer
        self.deserializer = deserializer

    def __call__(self, instance):
        return _restore, (self.deserializer, self.serializer(instance))


def _restore(deserializer, data):
    return deserializer(data)


def register_serializer(cls: type, *, serializer, deserializer) -> None:
    """From now on this process pickles instances of ``cls`` (not of derived classes) by
    ``serializer``.

    Args:
        cls: the type.
        serializer: takes an instance, gives something that can be pickled.
        deserializer: takes that, gives an instance; travels along, so readers need not register
            anything.

    Example::

        register_serializer(Handle, serializer=lambda h: h.name, deserializer=lambda name:
        Handle(name))
    """
    copyreg.pickle(cls, _Reducer(serializer, deserializer))


def deregister_serializer(cls: type) -> None:
    """Undoes `register_serializer`; nothing happens when there is nothing to undo."""
    if isinstance(copyreg.dispatch_table.get(cls), _Reducer):
        del copyreg.dispatch_table[cls]
