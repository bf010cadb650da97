"""``python -m sheaf._template``: a warm, single-threaded process from which workers are forked.

It talks to the node daemon on descriptor 3; the messages are described in launchers/worker_spawner.h. Everything that
a worker needs is imported here once, so that a new worker costs one fork; the forks are made in
python/binding/fork_server.h. No thread may exist here, or a fork could copy a lock that nobody will ever release.
"""

from __future__ import annotations

# The C modules: what lies over them takes milliseconds to import, and each fork pages to run.
import _signal as signal
import _socket as socket
import gc
import json
import os
import sys

from . import _core, _worker

_CHANNEL = 3
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS",
                     "VECLIB_MAXIMUM_THREADS")

# Imported when there is nothing else to do: async actors need it, and the first result need not
# wait for it.
_WHEN_IDLE = ("asyncio", "traceback", "sheaf._worker_async")
_QUIET_MS = 200


class Template:
    """Owned by the main (and only) thread."""

    def __init__(self):
        self.channel = socket.socket(fileno=_CHANNEL)
        self.job = None  # whose environment this process wears
        self.wake_read, self.wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def send(self, line: str) -> None:
        """One line to the daemon; a daemon that is gone ends this process."""
        try:
            self.channel.send(line.encode("utf-8", "surrogateescape")[:60000])
        except OSError:
            os._exit(0)

    def serve(self) -> None:
        """Until the daemon closes the channel."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self.wake_write, warn_on_full_buffer=False)
        self.send("ready")
        idle_imports = list(_WHEN_IDLE)
        while True:
            quiet = _QUIET_MS if idle_imports else -1
            event = _core._next_request(_CHANNEL, self.wake_read, quiet)
            if event is None:
                _import_for_all_workers(idle_imports.pop(0))
                continue
            is_worker, text = event
            if is_worker:
                become_worker(self.channel, text, self.job)
            if not text:
                os._exit(0)
            self.receive(text)

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


def _read(text: bytes) -> dict:
    return json.loads(text.decode("utf-8", "surrogatepass"))


def become_worker(channel, text: bytes, job: dict) -> None:
    """The child: never returns."""
    code = 1
    try:
        request = _read(text)
        request["job"] = job
        if not _enter_job(channel, request):
            os._exit(_worker._EXIT_RUNTIME_ENV)
        _core._set_title("sheaf-worker")  # what `ps -o comm` and `top` show; 15 characters at most
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        gc.enable()
        channel.close()
        code = _worker.run(request)
    except SystemExit as error:
        code = _worker.exit_code(error)
    except BaseException:
        import traceback

        traceback.print_exc()
    _worker.leave(code)


def _enter_job(channel, request: dict) -> bool:
    """Sets up the environment, with a sign of life each few seconds while that takes long."""
    token = request["token"]
    slow = bool(request.get("runtime_env") or request["job"].get("runtime_env"))
    if slow:
        signal.signal(signal.SIGALRM, lambda *_: channel.send(f"setup {token}".encode()))
        signal.setitimer(signal.ITIMER_REAL, 5, 5)
        channel.send(f"setup {token}".encode())
    try:
        _worker.enter_prepared_job(request)
        return True
    except BaseException as error:
        try:
            channel.send(f"failed {token} runtime_env {error}".encode("utf-8", "replace")[:60000])
        except OSError:
            pass
        return False
    finally:
        if slow:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)


def main() -> None:
    """Imports what makes workers quick, then serves."""
    gc.disable()
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
    # As it is: to look for the little garbage that imports leave takes 7 ms, for which the first
    # result would wait, and writes to every page.
    gc.freeze()
    Template().serve()


def _import_for_all_workers(module: str) -> None:
    worn, sys.path[:] = list(sys.path), _worker.own_path()  # not a job's module of that name
    try:
        __import__(module)
    except ImportError:
        pass
    finally:
        sys.path[:] = worn
    _freeze()


def _freeze() -> None:
    """What exists now is no business of the workers' collectors, which would copy its pages."""
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    from sheaf import _template  # one copy of this module, whatever it was started as

    _template.main()
