"""Methods are found on the actor's class; what people see of a worker."""

from __future__ import annotations

import time

import pytest

import sheaf

from conftest import wait_until

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


def command_line(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read().rstrip(b"\0").decode()


def test_the_command_line_tells_what_a_worker_does(tmp_path):
    import os

    @sheaf.remote
    def long_task():
        (tmp_path / "pid").write_text(str(os.getpid()))
        while not (tmp_path / "go").exists():
            time.sleep(0.005)
        return os.getpid()

    @sheaf.remote
    class Counter:
        def pid(self):
            return os.getpid()

        def long_method(self):
            while not (tmp_path / "go").exists():
                time.sleep(0.005)

    counter = Counter.remote()
    pid = sheaf.get(counter.pid.remote())
    wait_until(lambda: command_line(pid) == "ray::Counter", what="the actor's title")
    call = counter.long_method.remote()
    task = long_task.options(name="my long task").remote()
    wait_until(lambda: command_line(pid) == "ray::Counter.long_method", what="the method's title")
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), what="its pid")
    worker = int((tmp_path / "pid").read_text())
    wait_until(lambda: command_line(worker) == "ray::my long task", what="the task's title")
    (tmp_path / "go").touch()
    assert sheaf.get(task) == worker
    sheaf.get(call)
    wait_until(lambda: command_line(pid) == "ray::Counter", what="the actor's title again")
