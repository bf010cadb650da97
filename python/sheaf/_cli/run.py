"""``sheaf run``, ``microbenchmark``, ``doctor`` and ``version``."""

from __future__ import annotations

import os
import sys
from typing import Optional

import typer

PASS_ON = {
    "allow_extra_args": True,
    "ignore_unknown_options": True,
    "allow_interspersed_args": False,
}
# For commands whose options, --help among them, are another parser's.
HAND_ON = {**PASS_ON, "help_option_names": []}


def run(
    context: typer.Context,
    script: str = typer.Argument(..., help="A Python script; its arguments follow."),
    as_ray: bool = typer.Option(
        False, "--as-ray", help="Let 'import ray' mean sheaf, in workers too."
    ),
    address: Optional[str] = typer.Option(None, help="Cluster to use; default: one of its own."),
    nodes: Optional[int] = typer.Option(
        None, "--nodes", "-n", min=1, help="Run on a cluster of so many nodes on this machine."
    ),
    num_cpus: Optional[float] = typer.Option(
        None, help="With --nodes: CPUs of each; default: this machine's, shared out, at least 1."
    ),
) -> None:
    """Run a script; ends with the script's exit status."""
    if not os.path.exists(script):
        raise ValueError(f"There is no file {script}.")
    if nodes is not None and address:
        raise ValueError("--nodes makes a cluster of its own: --address cannot be given as well.")
    if num_cpus is not None and nodes is None:
        raise ValueError("--num-cpus belongs to --nodes.")
    if address:
        os.environ["SHEAF_ADDRESS"] = address
    command = [
        sys.executable,
        "-m",
        "sheaf._run",
        *(["--as-ray"] if as_ray else []),
        script,
        *context.args,
    ]
    sys.stdout.flush()
    if nodes is not None:
        from .._local_nodes import run_on_nodes

        raise typer.Exit(run_on_nodes(nodes, num_cpus, command))
    os.execv(sys.executable, command)


def microbenchmark(context: typer.Context) -> None:
    """Measure calls, objects and actors of this machine beside their floors (--help lists its
    options).
    """
    from .._perf.suite import main

    raise typer.Exit(main(context.args))


def taskbench(context: typer.Context) -> None:
    """Find the smallest task worth running, beside MPI, OpenMP, StarPU, Dask and Ray (--help lists
    its options).
    """
    from .._perf.taskbench import main

    raise typer.Exit(main(context.args))


def version() -> None:
    """Print the version."""
    from .._version import __version__

    print(f"sheaf {__version__} (Python {'.'.join(map(str, sys.version_info[:3]))})")


def doctor(as_json: bool = typer.Option(False, "--json", help="Print JSON.")) -> None:
    """Check this machine and installation, and say what limits the speed. Exit status 1 when
    something is broken.
    """
    from .doctor import examine
    from .output import print_json, print_table

    findings = examine()
    if as_json:
        print_json(findings)
    else:
        print_table(findings, ["check", "result", "finding"])
    raise typer.Exit(1 if any(row["result"] == "FAIL" for row in findings) else 0)
