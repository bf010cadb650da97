"""The names of `_cross_language` under the module name that programs written for Ray import."""

from ._cross_language import Language, cpp_actor_class, cpp_function  # noqa: F401
