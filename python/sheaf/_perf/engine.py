"""One engine in a process of its own: does what it is asked for, a JSON object a line, and answers
in JSON. `python engine.py NAME` serves; `python engine.py NAME --life KIND` lives once (life.py).

Run by path in a peer's interpreter, so it imports only the standard library and its neighbours.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any, Iterator

sys.path[:1] = [os.path.dirname(os.path.abspath(__file__))]

# By their names alone: a peer's interpreter has no sheaf package.
life, lines, peer_apis, task_graph = map(
    importlib.import_module, ("life", "lines", "peer_apis", "task_graph")
)


class OpenLine:
    """A line set up, measured round by round."""

    def __init__(self, api: Any, line: Any) -> None:
        self._line = line
        self._generator: Iterator[Any] = line.setup(api)
        self._work = next(self._generator)
        self._step = 1

    def round(self, seconds: float) -> float:
        """Units per second over at least `seconds`."""
        work, step, done = self._work, self._step, 0
        started = time.perf_counter()
        while True:
            for _ in range(step):
                work()
            done += step
            took = time.perf_counter() - started
            if took >= seconds:
                break
        self._step = max(1, done // 10)
        return done * self._line.multiplier / took

    def close(self) -> None:
        next(self._generator, None)


class Server:
    """Answers requests: open, round and close a line; run a task graph."""

    def __init__(self, api: Any) -> None:
        self._api = api
        self._by_name = {line.name: line for line in lines.LINES}
        self._open: OpenLine | None = None

    def answer(self, request: dict) -> dict:
        try:
            return getattr(self, "do_" + request["do"])(request)
        except Exception as error:  # one line's failure is that line's result
            return {"error": f"{type(error).__name__}: {error}"}

    def do_open(self, request: dict) -> dict:
        line = self._by_name[request["line"]]
        if not line.needs <= self._api.FEATURES:
            return {"skipped": True}
        self._open = OpenLine(self._api, line)
        self._open.round(request["seconds"])   # warms up
        return {}

    def do_round(self, request: dict) -> dict:
        assert self._open is not None
        return {"rate": self._open.round(request["seconds"])}

    def do_close(self, request: dict) -> dict:
        if self._open is not None:
            opened, self._open = self._open, None
            opened.close()
        return {}

    def do_graph(self, request: dict) -> dict:
        return task_graph.run(self._api, **request["graph"])


def main() -> None:
    name = sys.argv[1]
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # an engine's own chatter must not mix with the answers

    def say(answer: dict) -> None:
        print(json.dumps(answer), file=reply, flush=True)

    api = peer_apis.load(name)
    if sys.argv[2:3] == ["--life"]:
        say(life.live(api, sys.argv[3], json.loads(sys.argv[4])))
        return
    started = time.perf_counter()
    peer_apis.start(api)
    api.get(lines.definitions(api)["small_value"].remote())
    say({"ready_seconds": time.perf_counter() - started, "version": api.__version__})
    server = Server(api)
    for text in sys.stdin:
        request = json.loads(text)
        if request["do"] == "end":
            break
        say(server.answer(request))
    started = time.perf_counter()
    api.shutdown()
    say({"shutdown_seconds": time.perf_counter() - started})


if __name__ == "__main__":
    main()
