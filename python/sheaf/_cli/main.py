"""Entry point: the list of commands. Each lives in a module of its own that is imported when it
runs.
"""

from __future__ import annotations

import sys

import typer

from . import node, observe, run, start
from .output import fail

app = typer.Typer(
    name="sheaf",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Distributed tasks, actors and objects: start clusters, watch them, run scripts.",
)

app.command("start")(start.start)
app.command("stop")(start.stop)
app.add_typer(node.app, name="node")
app.command("status")(observe.status)
app.command("list")(observe.list_rows)
app.command("summary")(observe.summary)
app.command("logs")(observe.logs)
app.command("timeline")(observe.timeline)
app.command("metrics")(observe.metrics)
app.command("memory")(observe.memory)
app.command("run", context_settings=run.PASS_ON)(run.run)
app.command("microbenchmark", context_settings=run.HAND_ON)(run.microbenchmark)
app.command("taskbench", context_settings=run.HAND_ON)(run.taskbench)
app.command("doctor")(run.doctor)
app.command("version")(run.version)


_UsageError = typer.BadParameter.__base__


def main() -> None:
    """Runs the command of ``sys.argv``.

    What goes wrong is one sentence on stderr; exit status 2 for a wrong command line, else 1.
    """
    try:
        status = app(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except _UsageError as error:
        if len(sys.argv) < 2:
            error.show()
            sys.exit(2)
        command = error.ctx.command_path.split()[-1] if error.ctx is not None else "sheaf"
        hint = "sheaf --help" if command == "sheaf" else f"sheaf {command} --help"
        fail(f"{' '.join(error.format_message().split())} (see '{hint}')", 2)
    except typer.Abort:
        sys.exit(130)
    except ValueError as error:
        fail(str(error) or type(error).__name__, 2)
    except (ConnectionError, PermissionError, RuntimeError) as error:
        fail(str(error) or type(error).__name__)
    except BrokenPipeError:
        sys.stderr.close()  # `sheaf list tasks | head`
        sys.exit(0)


if __name__ == "__main__":
    main()
