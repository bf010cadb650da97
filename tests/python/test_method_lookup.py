"""Methods are found on the actor's class."""

from __future__ import annotations

import pytest

import sheaf

pytestmark = pytest.mark.usefixtures("cluster")


def test_an_attribute_of_the_instance_does_not_hide_a_method():
    @sheaf.remote
    class Hides:
        def __init__(self):
            self.value = 7
            self.plain = 8
            self.fixed = 9
            self.of_class = 10

        def value(self):
            return "method"

        def plain(self, x):
            return self.value, x

        @staticmethod
        def fixed(x):
            return x

        @classmethod
        def of_class(cls):
            return cls.__name__

    actor = Hides.remote()
    assert sheaf.get(actor.value.remote()) == "method"
    assert sheaf.get(actor.plain.remote(x=1)) == (7, 1)
    assert sheaf.get(actor.fixed.remote(2)) == 2
    assert sheaf.get(actor.of_class.remote()) == "Hides"


def test_async_and_threaded_actors_too():
    @sheaf.remote
    class Async:
        def __init__(self):
            self.f = None

        async def f(self):
            return 1

    @sheaf.remote
    class Plain:
        def __init__(self):
            self.f = None

        def f(self):
            return 2

    assert sheaf.get(Async.remote().f.remote()) == 1
    assert sheaf.get(Plain.options(max_concurrency=2).remote().f.remote()) == 2
