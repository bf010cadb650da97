"""A warm, single-threaded process from which workers are forked, which the node daemon starts with
``python -c`` (launchers/template_process.cc).

It talks to the daemon on descriptor 3; the messages are described in launchers/worker_spawner.h. Everything that
a worker needs is imported here once, so that a new worker costs one fork; the forks are made in
python/binding/fork_server.h. No thread may exist here, or a fork could copy a lock that nobody will ever release.

What a child does before its first task is held short: each page that it is the first to write to (and to look at an
object is to count a reference) is copied for it, at 3 us.
"""

from __future__ import annotations

# The C modules: what lies over them takes milliseconds to import, and each fork pages to run.
import _signal as signal
import gc
import json
import os
import sys

from . import _core, _state, _worker

_CHANNEL = 3
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
                     "VECLIB_MAXIMUM_THREADS")

# Imported when there is nothing else to do: async actors need it, and the first result need not
# wait for it.
_WHEN_IDLE = ("asyncio", "traceback", "sheaf._worker_async")
_QUIET_MS = 200
_threading = sys.modules.get("threading")  # sheaf has imported it


class Template:
    """Owned by the main (and only) thread."""

    def __init__(self, hooks: ForkHooks):
        self.job = None  # whose environment this process wears
        self.hooks = hooks

    def send(self, line: str) -> None:
        """One line to the daemon; a daemon that is gone ends this process."""
        try:
            _send(line)
        except OSError:
            os._exit(0)

    def serve(self) -> None:
        """Until the daemon closes the channel."""
        self.send("ready")
        idle_imports = list(_WHEN_IDLE)
        while True:
            quiet = _QUIET_MS if idle_imports else -1
            event = _core._next_request(
                _CHANNEL, quiet, self.read_request, self.hooks.only_known(), become_worker
            )
            if event is None:
                _import_for_all_workers(idle_imports.pop(0))
                if not idle_imports:
                    _rehearse()
                _freeze()
            elif not event:
                os._exit(0)
            else:
                self.receive(event)

    def read_request(self, text: bytes) -> dict:
        """Of a fork. A worker without an environment of its own has a "directory" (bytes)."""
        request = {**_read(text), "job": self.job, "directory": None}
        if not (request.get("runtime_env") or self.job.get("runtime_env")):
            request["directory"] = os.fsencode(self.job.get("cwd") or "/")
        return request

    def receive(self, text: bytes) -> None:
        """Handles a message that asks for no fork."""
        token = 0
        try:
            message = _read(text)
            token = message.get("token", 0)
            if message.get("cmd") == "job":
                self.take_on(message["job"])
            elif token:
                self.send(f"failed {token} other not understood")
        except Exception as error:
            self.send(f"failed {token} other {error!r}")

    def take_on(self, job: dict) -> None:
        """Wears the job's environment: the workers of the next forks inherit it."""
        self.job = job
        for name in _THREAD_VARIABLES:
            os.environ.pop(name, None)
        _worker.take_on(job)
        _state.become_worker(job.get("name_space", ""), job.get("id") or 0)


class ForkHooks:
    """The functions that os.register_at_fork() has been given in this process."""

    # They renew what other threads may have held, or forget a connection: in a child of this
    # process there is nothing of the kind.
    _KNOWN = {
        ("threading", "_after_fork"),
        ("logging", "_acquireLock"),
        ("logging", "_after_at_fork_child_reinit_locks"),
        ("logging", "_releaseLock"),
        ("sheaf._state", "_forget_after_fork"),
    }

    def __init__(self):
        def marker():
            pass

        os.register_at_fork(before=marker, after_in_child=marker, after_in_parent=marker)
        # The interpreter's own lists: there is no other way to ask for them.
        self._lists = [found for found in gc.get_referrers(marker) if type(found) is list]
        for found in self._lists:
            found.remove(marker)

    def only_known(self) -> bool:
        """Whether a child may do without all of them."""
        return len(self._lists) == 3 and all(
            (getattr(hook, "__module__", ""), getattr(hook, "__qualname__", "")) in self._KNOWN
            for hooks in self._lists
            for hook in hooks
        )


def _send(line: str) -> None:
    os.write(_CHANNEL, line.encode("utf-8", "surrogateescape")[:60000])


def _read(text: bytes) -> dict:
    return json.loads(text.decode("utf-8", "surrogatepass"))


def become_worker(request: dict) -> None:
    """The child: never returns."""
    code = 1
    try:
        if request["directory"] is None:
            if not _enter_job(request):
                os._exit(_worker._EXIT_RUNTIME_ENV)
            os.close(_CHANNEL)
        if _threading is not None:
            _threading._main_thread._native_id = os.getpid()
        code = _worker.run(request)
    except SystemExit as error:
        code = _worker.exit_code(error)
    except BaseException:
        import traceback

        traceback.print_exc()
    _worker.leave(code)


def _enter_job(request: dict) -> bool:
    """Sets up the environment, with a sign of life each few seconds while that takes long."""
    _state.state.mode = None  # the hook of an environment runs before there is a connection
    token = request["token"]
    signal.signal(signal.SIGALRM, lambda *_: _send(f"setup {token}"))
    signal.setitimer(signal.ITIMER_REAL, 5, 5)
    try:
        _send(f"setup {token}")
        _worker.enter_prepared_job(request)
        return True
    except BaseException as error:
        try:
            _send(f"failed {token} runtime_env {error}")
        except OSError:
            pass
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


def main() -> None:
    """Imports what makes workers quick, then serves."""
    gc.disable()
    hooks = ForkHooks()  # now: what it looks through is a fifth of what it will be
    os.environ.pop("LD_BIND_NOW", None)  # meant for this process (launchers/template_process.cc)
    for name in _THREAD_VARIABLES:
        os.environ.setdefault(name, "1")
    import pickle  # noqa: F401

    import cloudpickle  # noqa: F401

    from . import _calls, _errors, _serialization, _worker_output  # noqa: F401
    from . import actor, exceptions, remote_function  # noqa: F401

    for module in filter(None, os.environ.get("SHEAF_WORKERS_PRELOAD", "").split(",")):
        try:
            __import__(module.strip())
        except Exception as error:
            print(f"sheaf: warning: {module} cannot be preloaded: {error!r}", file=sys.stderr)
    _core._set_title("sheaf-template")
    _worker.prepare()
    _core._fill_heap_gaps()
    # As it is: to look for the little garbage that imports leave takes 7 ms, for which the first
    # result would wait, and writes to every page.
    gc.freeze()
    Template(hooks).serve()


def _import_for_all_workers(module: str) -> None:
    worn, sys.path[:] = list(sys.path), _worker.own_path()  # not a job's module of that name
    try:
        __import__(module)
    except ImportError:
        pass
    finally:
        sys.path[:] = worn


def _rehearse() -> None:
    """What each new actor does: the interpreter notes what it has looked up, and where."""
    import cloudpickle

    class Actor:
        def __init__(self):
            self.value = None

        def method(self, value=None):
            return value

    data = cloudpickle.dumps(Actor)
    for _ in range(16):
        _worker.loads(data)().method(1)


def _freeze() -> None:
    """What exists now is no business of the workers' collectors, which would copy its pages."""
    gc.collect()
    _core._fill_heap_gaps()
    gc.freeze()


if __name__ == "__main__":
    from sheaf import _template  # one copy of this module, whatever it was started as

    _template.main()
