"""``sheaf start`` and ``sheaf stop``."""

from __future__ import annotations

import json
import os
import signal
import time
from typing import List, Optional

import typer

from .output import fail, print_json


def start(
    head: bool = typer.Option(False, "--head", help="Start a new cluster on this machine."),
    restart: bool = typer.Option(
        False,
        "--restart",
        help="With --head: take up the newest cluster here whose head's daemon was killed (or that "
        "of --session-dir): its journal, address and secret. Its nodes come back by themselves.",
    ),
    address: Optional[str] = typer.Option(
        None, help="Join the cluster whose head is at HOST:PORT with a further node."
    ),
    secret_file: Optional[str] = typer.Option(
        None,
        envvar="SHEAF_SECRET_FILE",
        help="File with the cluster's secret, which the head makes in its session directory; "
        "needed to join from another machine.",
    ),
    listen: Optional[str] = typer.Option(
        None,
        "--listen",
        help="HOST or HOST:PORT where other nodes reach this one; default: the interface that "
        "leads out, a free port. 'none' (head only): no other nodes, no port.",
    ),
    num_cpus: Optional[float] = typer.Option(
        None, help="CPUs for tasks; default: all that this process may use."
    ),
    num_gpus: Optional[float] = typer.Option(
        None, help="GPUs for tasks; default: those that are visible."
    ),
    resources: Optional[str] = typer.Option(
        None, help='Further resources as JSON, e.g. {"licence": 2}.'
    ),
    labels: Optional[str] = typer.Option(
        None, help='Labels of the node as JSON, or "key=value,key=value".'
    ),
    object_store_memory: Optional[int] = typer.Option(
        None, help="Size of the object store in bytes."
    ),
    config: Optional[List[str]] = typer.Option(None, help="A setting NAME=VALUE; may be repeated."),
    session_dir: Optional[str] = typer.Option(
        None, help="The session's directory; one that exists is continued."
    ),
    block: bool = typer.Option(False, help="Stay until the cluster ends."),
    as_json: bool = typer.Option(False, "--json", help="Print the cluster's description as JSON."),
) -> None:
    """Start a cluster on this machine, or a further node of one, that outlives this command."""
    if head == (address is not None):
        fail("Say --head to start a new cluster, or --address HOST:PORT to join one.", 2)
    if restart:
        session_dir, secret_file, listen = _dead_head(head, session_dir, secret_file, listen)
    from .._cluster import _check_arguments, node_arguments
    from .._daemon import Daemon

    settings = dict(_setting(text) for text in config or ())
    amounts, node_labels = _mapping(resources, "--resources"), _mapping(labels, "--labels")
    _check_arguments(num_cpus, num_gpus, amounts, node_labels, object_store_memory, None, None)
    arguments = node_arguments(
        num_cpus, num_gpus, amounts, node_labels, object_store_memory, settings
    )
    arguments += _cluster_arguments(address, secret_file, listen)
    if session_dir:
        arguments += ["--session-dir", os.path.abspath(session_dir)]
    daemon = Daemon(arguments if block else ["--daemonize", *arguments])
    description = daemon.ready()
    if as_json:
        print_json(description)
    else:
        print(_greeting(daemon))
    if block:
        _stay(daemon)


def _dead_head(head, session_dir, secret_file, listen):
    """Where a head was that runs no more: its directory, secret and address."""
    from .._daemon import dead_head, dead_heads, read_cluster

    if not head:
        fail("--restart is for --head: other nodes come back by themselves.", 2)
    if session_dir and read_cluster(session_dir):
        fail(f"The cluster in {session_dir} runs.")
    left = dead_head(session_dir) if session_dir else next(iter(dead_heads()), None)
    if left is None:
        where = session_dir or "this machine"
        fail(f"No head whose daemon was killed has left a journal: nothing to restart in {where}.")
    return (
        left["session_dir"],
        secret_file or left.get("secret_file"),
        listen or left.get("address") or "none",
    )


def _cluster_arguments(address, secret_file, listen) -> list[str]:
    """What the daemon is told about other nodes."""
    arguments = []
    if address is not None:
        arguments += ["--join", address, "--secret-file", secret_file or _secret_of(address)]
    elif secret_file:
        arguments += ["--secret-file", secret_file]
    if listen != "none":
        arguments += ["--listen", listen or "auto"]
    elif address is not None:
        fail("--listen none: a node that joins a cluster has to be reachable.", 2)
    return arguments


def _secret_of(address: str) -> str:
    """The secret of the cluster at this address, when its head runs on this machine."""
    from .._daemon import live_clusters

    for cluster in live_clusters():
        if cluster.get("address") == address and cluster.get("head"):
            return cluster["secret_file"]
    fail(
        f"No cluster on this machine has the address {address}: copy its secret here (the head's "
        "session directory has it, mode 0600) and name it by --secret-file.",
        2,
    )


def _greeting(daemon) -> str:
    text = (
        f"Sheaf runs: {daemon.session_dir}\n\n"
        '  in Python:  sheaf.init(address="auto")   or   '
        f"sheaf.init(address={daemon.session_dir!r})\n"
        "  to look:    sheaf status\n  to end it:  sheaf stop"
    )
    description = daemon.description
    if description.get("head") and description.get("address"):
        text += (
            f"\n  more nodes: sheaf start --address {description['address']} --secret-file FILE\n"
            f"              FILE: a copy of {description['secret_file']} (on this machine none is "
            "needed)\n  if its daemon is killed: sheaf start --head --restart"
        )
    return text


def _stay(daemon) -> None:
    try:
        while not daemon.wait(3600.0):
            pass
    except KeyboardInterrupt:
        daemon.stop()


def _setting(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        fail(f"--config {text}: NAME=VALUE is needed", 2)
    return name, value


def _mapping(text: Optional[str], option: str):
    if text is None:
        return None
    try:
        value = json.loads(text)
    except ValueError:
        parts = [part.partition("=") for part in text.split(",")]
        if not all(separator for _, separator, _ in parts):
            fail(f"{option}: {text!r} is neither JSON nor key=value,...", 2)
        value = {key.strip(): item.strip() for key, _, item in parts}
    if not isinstance(value, dict):
        fail(f"{option}: {text!r} is not a JSON object", 2)
    return value


def stop(
    address: Optional[str] = typer.Option(
        None, help="Session directory; default: the newest cluster from 'start'."
    ),
    everything: bool = typer.Option(
        False, "--all", help="All clusters that this user started by 'sheaf start'."
    ),
    timeout: float = typer.Option(10.0, help="Seconds until the cluster is killed."),
) -> None:
    """End a cluster that was started by 'sheaf start'. Clusters inside of other programs are left
    alone.
    """
    from .._daemon import live_clusters, read_cluster

    started = [cluster for cluster in live_clusters() if not cluster.get("embedded")]
    if address is not None:
        cluster = read_cluster(address.removesuffix("/sheafd.sock"))
        if cluster is None:
            fail(f"No cluster runs in {address}.")
        started = [cluster]
    if not started:
        fail("No cluster started by 'sheaf start' runs on this machine.")
    for cluster in started if everything or address else started[:1]:
        _stop_one(cluster, timeout)
        print(f"Stopped {cluster['session_dir']}")


def _stop_one(cluster: dict, timeout: float) -> None:
    from .._daemon import read_cluster

    pid = int(cluster["pid"])
    for number in (signal.SIGTERM, signal.SIGKILL):
        if read_cluster(cluster["session_dir"]) is None and not _alive(pid):
            return
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + timeout
        while _alive(pid) and time.monotonic() < deadline:
            time.sleep(0.01)


def _alive(pid: int) -> bool:
    from .._daemon import _start_time

    return _start_time(pid) != 0
