"""``python -m sheaf._template``: a warm, single-threaded process from which workers are forked.

It talks to the node daemon on descriptor 3; the messages are described in launchers/worker_spawner.h. Everything that
a worker needs is imported here once, so that a new worker costs one fork. No thread may exist here, or a fork could
copy a lock that nobody will ever release.
"""

from __future__ import annotations

# The C modules: what lies over them takes milliseconds to import, and each fork pages to run.
import _signal as signal
import _socket as socket
import array
import gc
import json
import os
import select
import sys

from . import _core, _worker

_CHANNEL = 3
_REQUEST_BYTES_MAX = 256 * 1024
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
        self.buffer = bytearray(_REQUEST_BYTES_MAX)  # kept: its pages are not mapped anew each time
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
        poll = select.poll()
        poll.register(self.channel, select.POLLIN)
        poll.register(self.wake_read, select.POLLIN)
        self.send("ready")
        idle_imports = list(_WHEN_IDLE)
        while True:
            ready = {fd for fd, _ in poll.poll(_QUIET_MS if idle_imports else 5000)}
            if not ready and idle_imports:
                _import_for_all_workers(idle_imports.pop(0))
                continue
            if self.wake_read in ready:
                self._drain_wakes()
            self.reap()
            if self.channel.fileno() in ready and not self.receive():
                os._exit(0)

    def _drain_wakes(self) -> None:
        try:
            while os.read(self.wake_read, 4096):
                pass
        except BlockingIOError:
            pass

    def reap(self) -> None:
        """Reports children that have ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.send(f"exit {pid} {status}")

    def receive(self) -> bool:
        """Handles one message; False at the end of the channel."""
        size, ancillary, _, _ = self.channel.recvmsg_into([self.buffer], socket.CMSG_SPACE(8 * 4))
        if not size:
            return False
        fds = array.array("i")
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
        try:
            request = json.loads(self.buffer[:size].decode("utf-8", "surrogatepass"))
            if request.get("cmd") == "job":
                self.take_on(request["job"])
            elif request.get("cmd") == "fork":
                self.fork(request, list(fds))
        except Exception as error:
            self.send(f"failed {request.get('token', 0) if 'request' in locals() else 0} other {error!r}")
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def take_on(self, job: dict) -> None:
        """Wears the job's environment: the workers of the next forks inherit it."""
        self.job = job
        for name in _THREAD_VARIABLES:
            os.environ.pop(name, None)
        _worker.take_on(job)

    def fork(self, request: dict, fds: list) -> None:
        """Makes one worker."""
        token = request["token"]
        if _threads() > 1:
            self.send(f"failed {token} unsafe the template process has several threads")
            return
        request["job"] = self.job
        pid = os.fork()
        if pid == 0:
            become_worker(self.channel, request, fds)
        self.send(f"forked {token} {pid}")


def _threads() -> int:
    # The folder has a link for each: to ask for that costs a thirtieth of reading it.
    links = os.stat("/proc/self/task").st_nlink
    return 1 if links == 3 else len(os.listdir("/proc/self/task"))


def become_worker(channel, request: dict, fds: list) -> None:
    """The child: never returns."""
    code = 1
    try:
        _settle(request, fds)
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


_parent = os.getpid()


def _settle(request: dict, fds: list) -> None:
    os.setsid()
    if not _core._die_with(_parent):
        os._exit(1)
    for target, fd in zip((1, 2), fds):
        os.dup2(fd, target)
        os.close(fd)


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
    gc.disable()
    _freeze()
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
