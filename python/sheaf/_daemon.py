"""Node daemons seen from Python: starting one, and finding those that run.

A daemon started here belongs to this process: it holds the write end's twin of a pipe and ends the
cluster when the driver is gone, however that happened.
"""

from __future__ import annotations

import os
import time

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 5.0


def program() -> str:
    """Path of the ``sheafd`` to start: $SHEAF_SHEAFD, else the one in this package.

    Raises RuntimeError when there is none.
    """
    path = os.environ.get("SHEAF_SHEAFD")
    if path:
        return path
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bin", "sheafd")
    if not os.access(path, os.X_OK):
        raise RuntimeError(f"The node daemon is missing: {path} (set SHEAF_SHEAFD to another one)")
    return path


def session_root() -> str:
    """The directory under which this user's clusters live on this machine."""
    root = os.environ.get("SHEAF_TMPDIR")
    if root:
        return root
    runtime_dir = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime_dir.startswith("/"):
        try:
            if os.stat(runtime_dir).st_uid == os.geteuid():
                return os.path.join(runtime_dir, "sheaf")
        except OSError:
            pass
    return f"/tmp/sheaf-{os.geteuid()}"


def read_cluster(session_dir: str) -> dict | None:
    """The description of the cluster in this session directory, or None when no daemon serves
    there.
    """
    import json

    try:
        with open(os.path.join(session_dir, "cluster.json"), encoding="utf-8") as file:
            cluster = json.load(file)
    except (OSError, ValueError):
        return None
    if _start_time(int(cluster.get("pid", 0))) != int(cluster.get("start_time", -1)):
        return None
    return cluster


def live_clusters() -> list[dict]:
    """The clusters of this user on this machine, newest first."""
    root = session_root()
    try:
        names = os.listdir(root)
    except OSError:
        return []
    clusters = [read_cluster(os.path.join(root, name)) for name in names]
    return sorted((c for c in clusters if c), key=_age_key, reverse=True)


def dead_heads() -> list[dict]:
    """What is left of this user's clusters whose head's daemon was killed, newest first: with a
    journal that a new one can take up.
    """
    root = session_root()
    try:
        names = os.listdir(root)
    except OSError:
        return []
    found = [dead_head(os.path.join(root, name)) for name in names]
    return sorted((c for c in found if c), key=_age_key, reverse=True)


def dead_head(session_dir: str) -> dict | None:
    """The description that a head which does not run any more has left in this directory."""
    import json

    try:
        with open(os.path.join(session_dir, "cluster.json"), encoding="utf-8") as file:
            cluster = json.load(file)
    except (OSError, ValueError):
        return None
    gone = _start_time(int(cluster.get("pid", 0))) != int(cluster.get("start_time", -1))
    journal = os.path.exists(os.path.join(session_dir, "journal.db"))
    return cluster if gone and journal and cluster.get("head") else None


def _age_key(cluster: dict):
    return (
        float(cluster.get("created", 0)),
        int(cluster.get("start_time", 0)),
        cluster.get("session_dir", ""),
    )


def _start_time(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


class Daemon:
    """A node daemon that this process has started. ``ready()`` waits until it serves."""

    def __init__(self, arguments: list[str]):
        self.session_dir = ""
        self.socket_path = ""
        self.description: dict = {}
        import _signal as signal  # the C module: what lies over it takes milliseconds to import

        read_end, write_end = os.pipe()
        self._ready_fd = read_end
        os.set_inheritable(write_end, True)
        try:
            command = [program(), *arguments, "--ready-fd", str(write_end)]
            try:
                # A daemon that goes to the background prints its description as well as sending it.
                quiet = [(os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0)]
                self.pid = os.posix_spawn(
                    command[0],
                    command,
                    dict(os.environ),
                    file_actions=quiet if "--daemonize" in arguments else [],
                    setsid=True,
                    setsigmask=[],
                    setsigdef=[signal.SIGINT, signal.SIGPIPE, signal.SIGTERM],
                )
            except OSError as error:
                raise RuntimeError(
                    f"The node daemon {command[0]} cannot be started: {error}"
                ) from error
        finally:
            os.close(write_end)

    def ready(self, timeout: float = START_TIMEOUT_S) -> dict:
        """Waits for the daemon; gives its description (a dict with "socket" and "session_dir").

        Raises RuntimeError with what the daemon said when it ended instead, or took longer than
        ``timeout`` seconds.
        """
        import select

        text = b""
        deadline = time.monotonic() + timeout
        poller = select.poll()
        poller.register(self._ready_fd, select.POLLIN)
        try:
            while not text.endswith(b"\n"):
                left = deadline - time.monotonic()
                if left <= 0 or not poller.poll(left * 1000):
                    self.stop()
                    raise RuntimeError(f"The node daemon was not ready after {timeout:g} s.")
                chunk = os.read(self._ready_fd, 65536)
                if not chunk:
                    self._reap(1.0)
                    raise RuntimeError(
                        "The node daemon could not start"
                        + (
                            f": {text.decode('utf-8', 'replace').strip()}"
                            if text
                            else "; its message is above."
                        )
                    )
                text += chunk
        finally:
            os.close(self._ready_fd)
        return self._understand(text.decode("utf-8", "replace").strip())

    def _understand(self, line: str) -> dict:
        import json

        try:
            self.description = json.loads(line)
        except ValueError:
            self.description = {"error": line}
        if "error" in self.description:
            self._reap(1.0)
            raise RuntimeError(f"The node daemon could not start: {self.description['error']}")
        self.socket_path = self.description["socket"]
        self.session_dir = self.description.get("session_dir") or os.path.dirname(self.socket_path)
        return self.description

    def stop(self, timeout: float = STOP_TIMEOUT_S) -> None:
        """Ends the daemon and waits until it is gone; after ``timeout`` seconds it is killed."""
        import signal

        if self.pid and not self._reap(0):
            try:
                os.kill(self.pid, signal.SIGTERM)
            except ProcessLookupError:
                pass
            if not self._reap(timeout):
                os.kill(self.pid, signal.SIGKILL)
                self._reap(timeout)

    def wait(self, timeout: float) -> bool:
        """Waits for the daemon's end; False when it still runs after ``timeout`` seconds."""
        return self._reap(timeout)

    def _reap(self, timeout: float) -> bool:
        """Whether the daemon has ended; its exit status is collected."""
        if not self.pid:
            return True
        deadline = time.monotonic() + timeout
        pause = 0.0005
        while True:
            try:
                pid, _ = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else in this process has collected it
                pid = self.pid if _start_time(self.pid) == 0 else 0
            if pid:
                self.pid = 0
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(pause)
            pause = min(pause * 1.5, 0.01)


def log_tail(session_dir: str, lines: int = 20) -> str:
    """The last lines of the daemon's own log, "" when there is none."""
    try:
        with open(
            os.path.join(session_dir, "logs", "sheafd.log"), encoding="utf-8", errors="replace"
        ) as file:
            return "".join(file.readlines()[-lines:])
    except OSError:
        return ""
