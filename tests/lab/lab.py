"""Hosts to test on: N network namespaces of one machine that behave like N machines.

Each host has its own interface on a common switch (veth pairs and a bridge in a namespace of its
own), host name, /tmp, /dev/shm, /run and process ids; file systems are shared otherwise. Links can
be capped, cut and healed. Whatever happens, nothing stays: `close()` removes it all, and leftovers
of a lab whose process died are swept when the next lab is made. Needs root and iproute2;
`why_not()` says what is missing.

    with Lab(3, rate="1gbit") as lab:
        lab.run(0, ["ping", "-c1", lab.address(1)])
        lab.cut(1)

Or by hand: `python tests/lab/lab.py shell --hosts 3`, `... run --hosts 2 -- hostname`, `... sweep`.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PREFIX = "sheaflab"
STATE = Path("/run") / PREFIX
NETNS_DIR = Path("/run/netns")
CLEAN_TMPFS = ("/tmp", "/dev/shm", "/run")
PROJECT = Path(__file__).resolve().parents[2]
START_S = 10.0


def why_not() -> str | None:
    """Why no lab can be made here, or None."""
    if os.geteuid() != 0:
        return "the lab needs root"
    for tool in ("ip", "tc", "unshare", "nsenter", "mount"):
        if shutil.which(tool) is None:
            return f"the lab needs `{tool}`"
    probe = subprocess.run(
        ["unshare", "--net", "--mount", "--uts", "--pid", "--fork", "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    return None if probe.returncode == 0 else f"no namespaces here: {probe.stderr.strip()}"


def _command(*words: str) -> None:
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {result.stderr.strip()}")


def _start_time(pid: int) -> str | None:
    """What tells a process from a later one of the same number; None when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _kill_namespace(pid: int, started: str) -> None:
    """Ends a host's first process, and with it, by the kernel, all others of the host."""
    if _start_time(pid) == started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + START_S
        while _start_time(pid) == started and time.monotonic() < end:
            time.sleep(0.005)


def _remove(state: Path) -> None:
    """Takes apart what a state file names. Twice does no harm."""
    for line in state.read_text().splitlines():
        kind, _, value = line.partition(" ")
        if kind == "host":
            pid, _, started = value.partition(" ")
            _kill_namespace(int(pid), started)
        elif kind == "netns":
            subprocess.run(["ip", "netns", "del", value], capture_output=True, check=False)
        elif kind == "dir":
            shutil.rmtree(value, ignore_errors=True)
    state.unlink(missing_ok=True)


def sweep() -> int:
    """Removes the labs whose process has died. Their number."""
    swept = 0
    for state in sorted(STATE.glob("*.lab")) if STATE.is_dir() else []:
        try:
            pid, started = state.read_text().split("\n", 1)[0].split()[1:3]
        except (OSError, ValueError):
            continue  # being written, or removed by another sweep
        if _start_time(int(pid)) != started:
            with contextlib.suppress(FileNotFoundError):
                _remove(state)
            swept += 1
    return swept


class Lab:
    """`hosts` hosts, `10.S.0.1` and up, reachable from one another and from nothing else.

    `rate` caps each host's link in both directions ("1gbit", as tc says it).
    """

    def __init__(self, hosts: int, rate: str | None = None) -> None:
        reason = why_not()
        if reason is not None:
            raise RuntimeError(reason)
        if not 1 <= hosts <= 250:
            raise ValueError("a lab has 1 to 250 hosts")
        sweep()
        STATE.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.name = f"{PREFIX}-{os.getpid():x}-{os.urandom(3).hex()}"
        self.hosts = hosts
        self._state = STATE / f"{self.name}.lab"
        self._note(f"owner {os.getpid()} {_start_time(os.getpid())}")
        self._first: list[subprocess.Popen[bytes]] = []  # the process that keeps a host alive
        self._started: list[subprocess.Popen[bytes]] = []
        self._root = Path("/run") / PREFIX / self.name
        self._note(f"dir {self._root}")
        try:
            self._switch = f"{self.name}-sw"
            self._make_switch()
            for host in range(hosts):
                self._make_host(host)
                if rate is not None:
                    self.cap(host, rate)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends every process of every host and removes all of the lab."""
        if self._state.exists():
            _remove(self._state)
        for process in [*self._started, *self._first]:
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self._first, self._started = [], []

    def address(self, host: int) -> str:
        return f"10.77.0.{host + 1}"

    def hostname(self, host: int) -> str:
        return f"host{host}"

    def wrap(self, host: int, command: Sequence[str]) -> list[str]:
        """The command that runs `command` on a host, for whoever starts processes himself."""
        pid = str(self._first[host].pid)
        enter = ["nsenter", "-t", pid, "--net", "--uts", "--mount", "--pid", "--"]
        # nsenter forks to enter the pid namespace, and its child must not outlive it.
        return [*enter, "setpriv", "--pdeathsig", "KILL", *command]

    def network(self, host: int) -> list[str]:
        """Words in front of a command that shall have a host's network and nothing else of it."""
        return ["ip", "netns", "exec", self._netns(host)]

    def run(self, host: int, command: Sequence[str], timeout: float = 60.0, **options: object):
        """As subprocess.run(), on a host; output is captured as text."""
        options = {"capture_output": True, "text": True, "check": False, **options}
        return subprocess.run(
            self.wrap(host, command), timeout=timeout, preexec_fn=_die_with_parent, **options
        )

    def start(self, host: int, command: Sequence[str], **options: object) -> subprocess.Popen:
        """As subprocess.Popen(), on a host. close() ends it."""
        process = subprocess.Popen(
            self.wrap(host, command), preexec_fn=_die_with_parent, **options
        )
        self._started.append(process)
        return process

    def cap(self, host: int, rate: str) -> None:
        """Caps a host's link, both directions."""
        shape = ["root", "tbf", "rate", rate, "burst", "256kb", "latency", "20ms"]
        for namespace, device in ((self._netns(host), "eth0"), (self._switch, f"p{host}")):
            words = ["tc", "qdisc", "replace", "dev", device, *shape]
            _command("ip", "netns", "exec", namespace, *words)

    def uncap(self, host: int) -> None:
        for namespace, device in ((self._netns(host), "eth0"), (self._switch, f"p{host}")):
            _command("ip", "netns", "exec", namespace, "tc", "qdisc", "del", "dev", device, "root")

    def cut(self, host: int) -> None:
        """From now on nothing gets to or from a host; neither side is told."""
        # Off the switch: the link stays up, as it does when a switch far away dies.
        _command("ip", "-n", self._switch, "link", "set", f"p{host}", "nomaster")

    def heal(self, host: int) -> None:
        _command("ip", "-n", self._switch, "link", "set", f"p{host}", "master", "br0")

    def part(self, one: int, other: int) -> None:
        """Nothing gets from one of two hosts to the other any more; all else does."""
        for host, peer in ((one, other), (other, one)):
            # To a station that nobody is: frames go out and are heard by no one.
            words = ["neigh", "replace", self.address(peer), "lladdr", "02:00:00:00:ff:ff"]
            _command("ip", "-n", self._netns(host), *words, "dev", "eth0", "nud", "permanent")

    def rejoin(self, one: int, other: int) -> None:
        for host, peer in ((one, other), (other, one)):
            words = ["neigh", "del", self.address(peer), "dev", "eth0"]
            _command("ip", "-n", self._netns(host), *words)

    def unplug(self, host: int) -> None:
        """As cut(), but the host sees that its link is down."""
        _command("ip", "-n", self._switch, "link", "set", f"p{host}", "down")

    def plug(self, host: int) -> None:
        _command("ip", "-n", self._switch, "link", "set", f"p{host}", "up")

    def crash(self, host: int) -> None:
        """Ends every process of a host at once, as losing power does. The host is gone."""
        self._first[host].kill()
        self._first[host].wait()

    def _note(self, line: str) -> None:
        # Before the thing is made: what is noted and missing does no harm.
        with self._state.open("a") as file:
            file.write(line + "\n")

    def _netns(self, host: int) -> str:
        return f"{self.name}-h{host}"

    def _add_netns(self, name: str) -> None:
        self._note(f"netns {name}")
        _command("ip", "netns", "add", name)
        _command("ip", "-n", name, "link", "set", "lo", "up")

    def _make_switch(self) -> None:
        self._add_netns(self._switch)
        bridge = ["br0", "type", "bridge", "forward_delay", "0"]
        _command("ip", "-n", self._switch, "link", "add", *bridge)
        _command("ip", "-n", self._switch, "link", "set", "br0", "up")

    def _make_host(self, host: int) -> None:
        namespace, port = self._netns(host), f"p{host}"
        self._add_netns(namespace)
        peer = ["peer", "name", "eth0", "netns", namespace]
        _command("ip", "-n", self._switch, "link", "add", port, "type", "veth", *peer)
        _command("ip", "-n", self._switch, "link", "set", port, "master", "br0", "up")
        _command("ip", "-n", namespace, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
        _command("ip", "-n", namespace, "link", "set", "eth0", "up")
        self._boot(host, namespace)

    def _boot(self, host: int, namespace: str) -> None:
        """The host's first process: its own names, mounts and process ids; ends with our own."""
        mounts = " && ".join(
            f"mount -t tmpfs -o mode=1777 {PREFIX} {path}" for path in CLEAN_TMPFS
        )
        script = (
            f"mount --make-rprivate / && mount -t proc proc /proc && {mounts} && {_show_project()}"
            f"mount -t sysfs sysfs /sys && hostname {self.hostname(host)} && "
            f"{self._hosts_file()} echo up && exec sleep infinity"
        )
        inner = ["unshare", "--mount", "--uts", "--pid", "--kill-child", "--fork"]
        inner += ["sh", "-c", f"exec 9<'{PROJECT}'; {script}"]
        process = subprocess.Popen(
            ["nsenter", f"--net={NETNS_DIR / namespace}", "--", *inner],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=_die_with_parent,
        )
        line = process.stdout.readline() if process.stdout else b""
        if line != b"up\n":
            process.kill()
            _, error = process.communicate()
            raise RuntimeError(f"host {host} did not start: {error.decode().strip()}")
        # `process` is unshare; its only child is the host's process 1.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        first = int(children[0])
        self._first.append(_FirstProcess(process, first))
        self._note(f"host {first} {self._first[-1].started}")

    def _hosts_file(self) -> str:
        """Shell words that give the host an /etc/hosts in which all hosts have names."""
        names = "".join(f"{self.address(h)} {self.hostname(h)}\\n" for h in range(self.hosts))
        return (
            f"printf '127.0.0.1 localhost\\n{names}' > /run/hosts && "
            "mount --bind /run/hosts /etc/hosts &&"
        )


def _show_project() -> str:
    """Shell words that keep a checkout below one of the hosts' own folders in sight of them."""
    if not any(PROJECT.is_relative_to(folder) for folder in CLEAN_TMPFS):
        return ""
    # By its descriptor: the path leads to the host's new, empty folder by now.
    words = f"mount --no-canonicalize --bind /proc/self/fd/9 '{PROJECT}'"
    return f"mkdir -p '{PROJECT}' && {words} && exec 9<&- && "


class _FirstProcess:
    """A host's process 1, and the unshare() that waits for it."""

    def __init__(self, outer: subprocess.Popen[bytes], pid: int) -> None:
        self.outer, self.pid, self.started = outer, pid, str(_start_time(pid))
        self.stdin, self.stdout, self.stderr = None, outer.stdout, outer.stderr

    def kill(self) -> None:
        _kill_namespace(self.pid, self.started)

    def wait(self) -> None:
        self.outer.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", choices=("shell", "run", "sweep"))
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--rate", help="cap of every link, as in 1gbit")
    parser.add_argument("command", nargs="*", help="run: on every host in turn, after `--`")
    options = parser.parse_intermixed_args()
    if options.what == "sweep":
        print(f"{sweep()} labs removed")
        return 0
    with Lab(options.hosts, options.rate) as lab:
        if options.what == "shell":
            print("hosts:", *(f"{lab.hostname(h)}={lab.address(h)}" for h in range(lab.hosts)))
            return subprocess.run(lab.wrap(0, ["bash"]), check=False).returncode
        codes = [
            lab.run(host, options.command or ["hostname"], capture_output=False).returncode
            for host in range(lab.hosts)
        ]
        return max(codes)


if __name__ == "__main__":
    sys.exit(main())
