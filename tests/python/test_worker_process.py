"""Worker processes: how they come, what they see, how they end; and how a driver's process ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

import sheaf

from conftest import wait_until


@sheaf.remote
def pid():
    return os.getpid()


@pytest.mark.usefixtures("cluster")
class TestWithCluster:
    def test_workers_are_quick_children_of_a_template(self):
        @sheaf.remote
        def facts():
            with open(f"/proc/{os.getppid()}/comm") as file:
                parent = file.read().strip()
            with open("/proc/self/comm") as file:
                own = file.read().strip()
            return os.getppid(), parent, own, os.getsid(0) == os.getpid()

        ppid, parent, own, leads_session = sheaf.get(facts.remote())
        assert parent == "sheaf-template" and own == "sheaf-worker" and leads_session
        assert len(os.listdir(f"/proc/{ppid}/task")) == 1

        @sheaf.remote(num_cpus=0)
        class A:
            def pid(self):
                return os.getpid()

        actors = [A.remote() for _ in range(10)]
        assert len(set(sheaf.get([a.pid.remote() for a in actors]))) == 10

    @pytest.mark.parametrize("how, code", [("sys.exit()", 0), ("sys.exit(3)", 3), ("os._exit(4)", 4),
                                           ("os.kill(os.getpid(), 9)", -9), ("os.abort()", -6)])
    def test_a_task_that_ends_its_worker(self, how, code):
        @sheaf.remote(max_retries=0)
        def end():
            exec(how, {"os": os, "sys": sys})

        with pytest.raises(sheaf.exceptions.WorkerCrashedError):
            sheaf.get(end.remote(), timeout=30)
        assert sheaf.get(pid.remote(), timeout=30) > 0

    def test_exit_handlers_run_and_output_is_flushed(self, tmp_path):
        marker = str(tmp_path / "atexit")

        @sheaf.remote(max_calls=1)
        def register():
            import atexit

            atexit.register(lambda: open(marker, "w").close())
            return os.getpid()

        worker = sheaf.get(register.remote())
        wait_until(lambda: os.path.exists(marker), what="the exit handler")
        wait_until(lambda: not os.path.exists(f"/proc/{worker}"), what="the worker's end")

    def test_functions_from_worker_to_worker(self):
        @sheaf.remote
        def outer(n):
            @sheaf.remote
            def inner(k):
                return k * n

            return sheaf.get([inner.remote(k) for k in range(5)])

        assert sheaf.get(outer.remote(3)) == [0, 3, 6, 9, 12]

    def test_a_function_that_cannot_be_loaded(self):
        import types

        module = types.ModuleType("only_in_the_driver")
        sys.modules["only_in_the_driver"] = module
        exec("def f(): return 1", module.__dict__)
        f = sheaf.remote(module.f)
        with pytest.raises(sheaf.exceptions.RayTaskError, match="only_in_the_driver"):
            sheaf.get(f.remote())

    def test_retries_only_for_listed_exceptions(self, tmp_path):
        log = tmp_path / "log"
        log.touch()

        @sheaf.remote(max_retries=3, retry_exceptions=[KeyError, OSError])
        def flaky(kind):
            with open(log, "a") as file:
                file.write("x")
            raise kind("again")

        with pytest.raises(FileNotFoundError):
            sheaf.get(flaky.remote(FileNotFoundError))
        assert len(log.read_text()) == 4
        log.write_text("")
        with pytest.raises(ValueError):
            sheaf.get(flaky.remote(ValueError))
        assert len(log.read_text()) == 1

    def test_current_task_knows_everything(self):
        @sheaf.remote(num_cpus=2, resources={"gold": 1}, name="named")
        def look():
            from sheaf import _core

            return _core.current_task()

        ref = look.remote()
        task = sheaf.get(ref)
        assert task["task_id"] == ref.binary() and task["name"] == "named" and task["attempt"] == 0
        assert task["resources"] == {"CPU": 2.0, "gold": 1.0} and task["actor_id"] is None
        from sheaf import _core

        assert _core.current_task() is None


def run_driver(code: str, timeout: float = 60) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True,
                          timeout=timeout)


HEAD = """
import os, sys, threading, time
import sheaf
sheaf.init(num_cpus=1)
@sheaf.remote
def slow(s): time.sleep(s); return s
@sheaf.remote
def items():
    yield 1
    time.sleep(100)
"""


@pytest.mark.parametrize("body", [
    "threading.Thread(target=lambda: sheaf.get(slow.remote(100)), daemon=True).start(); time.sleep(0.3)",
    "threading.Thread(target=lambda: sheaf.wait([slow.remote(100)]), daemon=True).start(); time.sleep(0.3)",
    "threading.Thread(target=lambda: list(items.remote()), daemon=True).start(); time.sleep(1)",
    "[threading.Thread(target=lambda: [sheaf.get(sheaf.put(i)) for i in range(10**9)], daemon=True).start() "
    "for _ in range(4)]; time.sleep(0.3)",
    "f = slow.remote(100).future()",
    "keep = [sheaf.put(b'x' * 100000), slow.remote(0), items.remote()]; views = sheaf.get(keep[0])",
    "class C:\n    def __del__(self): sheaf.is_initialized(); self.r\nc = C(); c.c = c; c.r = sheaf.put(1)",
    "sheaf.shutdown(); sheaf.init(num_cpus=1); assert sheaf.get(slow.remote(0)) == 0",
])
def test_a_driver_ends_cleanly_whatever_its_threads_do(no_cluster, body):
    done = run_driver(HEAD + body)
    assert done.returncode == 0, done.stderr
    assert "Fatal" not in done.stderr, done.stderr   # threads may say that the connection is gone


def test_forked_children_of_user_code_end_cleanly(no_cluster):
    done = run_driver(HEAD + textwrap.dedent("""
        import multiprocessing
        ref = sheaf.put(1)
        def child(q):
            try:
                sheaf.get(ref)
            except RuntimeError as error:
                q.put(str(error))
        context = multiprocessing.get_context("fork")
        q = context.Queue()
        p = context.Process(target=child, args=(q,))
        p.start()
        text = q.get(timeout=20)
        p.join(20)
        assert "fork" in text and p.exitcode == 0, (text, p.exitcode)
        assert sheaf.get(ref) == 1 and sheaf.get(slow.remote(0)) == 0
    """))
    assert done.returncode == 0, done.stderr


def test_an_interrupt_ends_a_get_at_once(no_cluster):
    code = HEAD + textwrap.dedent("""
        try:
            print("go", flush=True)
            sheaf.get(slow.remote(100))
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "go\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "interrupted\n"
    assert process.wait(20) == 0


def test_a_worker_is_a_process_of_its_own(fresh):
    """Though it was forked, from a process that cares for its children."""

    @sheaf.remote
    def look():
        import signal
        import threading

        main = threading.main_thread()
        ran = []
        other = threading.Thread(target=lambda: ran.append(threading.get_native_id()))
        other.start()
        other.join()
        child = os.fork()
        if child == 0:
            os._exit(0 if threading.active_count() == 1 else 1)
        return (
            main is threading.current_thread() and main.native_id == os.getpid() != ran[0],
            os.waitpid(child, 0)[1],
            signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
            os.getsid(0) == os.getpid(),
        )

    assert sheaf.get(look.remote()) == (True, 0, True, True)


def test_a_template_that_was_killed_is_replaced(fresh):
    fresh(num_cpus=1)

    @sheaf.remote
    def parent():
        return os.getppid()

    template = sheaf.get(parent.remote())
    os.kill(template, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{template}"), what="the template's end")

    @sheaf.remote(max_retries=5)
    def again():
        return os.getppid()

    assert sheaf.get(again.remote(), timeout=30) != template


def test_a_template_with_threads_is_not_forked(fresh, tmp_path, monkeypatch):
    (tmp_path / "starts_a_thread.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SHEAF_WORKERS_PRELOAD", "starts_a_thread")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    fresh(num_cpus=1)
    assert sheaf.get(pid.remote(), timeout=60) > 0


def test_a_task_may_have_as_many_threads_as_cpus(fresh, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    fresh(num_cpus=4)

    def threads():
        return os.environ["OMP_NUM_THREADS"]

    task = sheaf.remote(threads)
    assert [sheaf.get(task.options(num_cpus=n).remote()) for n in (1, 3, 0.5, 1)] == ["1", "3", "1", "1"]
    own = {"env_vars": {"OMP_NUM_THREADS": "7"}}
    assert sheaf.get(task.options(num_cpus=2, runtime_env=own).remote()) == "7"

    @sheaf.remote(num_cpus=2)
    class Asks:
        def threads(self):
            return os.environ["OMP_NUM_THREADS"]

    assert sheaf.get(Asks.remote().threads.remote()) == "2"


def test_the_driver_says_how_many_threads(fresh, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    fresh(num_cpus=2)
    assert sheaf.get(sheaf.remote(lambda: os.environ["OMP_NUM_THREADS"]).options(num_cpus=2).remote()) == "5"
