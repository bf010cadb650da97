"""Functions and actors written in C++, called by name with plain data."""

from __future__ import annotations

import enum


class Language(enum.Enum):
    """Languages of tasks and actors."""

    PYTHON = 0
    CPP = 2


def cpp_function(function_name: str, library: str | None = None):
    """A remote function of a C++ library; arguments and result are plain data (numbers, text,
    lists, dicts).

    Args:
        function_name: the name under which the library registers it.
        library: path of the shared library; default: $SHEAF_CPP_LIBRARY.

    Raises: ValueError when no library is known.
    """
    from ._cpp import CppFunction

    return CppFunction(function_name, _library(library))


def cpp_actor_class(create_function_name: str, class_name: str = "", library: str | None = None):
    """An actor class of a C++ library; any method name may be called on its handles.

    Args:
        create_function_name: the name of the factory that the library registers.
        class_name: what people see; default: the factory's name.
        library: path of the shared library; default: $SHEAF_CPP_LIBRARY.
    """
    from ._cpp import CppActorClass

    return CppActorClass(
        create_function_name, class_name or create_function_name, _library(library)
    )


def _library(library: str | None) -> str:
    import os

    library = library or os.environ.get("SHEAF_CPP_LIBRARY")
    if not library:
        raise ValueError(
            "Name the C++ library: cpp_function(name, library=PATH), or set SHEAF_CPP_LIBRARY."
        )
    return os.path.abspath(library)
