"""What `DAGNode.experimental_compile` gives: the same graph with the calls of a compiled one.

Nothing is prepared ahead: each execution submits the graph's calls, which here cost a few
microseconds each. Results are ordinary references; they can be read more than once and in any
order.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class DAGContext:
    """Limits of compiled graphs, in Ray's terms. Accepted and kept; none has an effect here."""

    submit_timeout: float = 10
    get_timeout: float = 10
    teardown_timeout: float = 30
    read_iteration_timeout: float = 0.1
    buffer_size_bytes: int = 1_000_000
    max_inflight_executions: int = 10
    max_buffered_results: int = 1000
    overlap_gpu_communication: bool = False

    _current = None

    @staticmethod
    def get_current() -> "DAGContext":
        """The one context of this process."""
        if DAGContext._current is None:
            DAGContext._current = DAGContext()
        return DAGContext._current


class CompiledDAG:
    """A graph that is executed until `teardown`."""

    def __init__(self, root):
        self._root = root
        self._ended = False

    def execute(self, *args, **kwargs):
        """Runs the graph once; references as from `DAGNode.execute`. RuntimeError after `teardown`."""
        if self._ended:
            raise RuntimeError("This compiled graph was torn down and cannot be executed again.")
        return self._root.execute(*args, **kwargs)

    async def execute_async(self, *args, **kwargs):
        """Runs the graph once; the references (or the list of them) can be awaited."""
        return self.execute(*args, **kwargs)

    def teardown(self, kill_actors: bool = False) -> None:
        """Ends the use of the graph; ``kill_actors``: also its actors."""
        if self._ended:
            return
        self._ended = True
        if kill_actors:
            from .._api import kill

            for handle in self._root._live_actors():
                kill(handle)
