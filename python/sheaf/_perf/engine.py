"""Runs lines for one engine in a process of its own: reads a line's name, answers with its rates, as JSON.

Loaded by path in a peer's interpreter (`python engine.py ray`), so it imports only the standard library and lines.py.
"""
from __future__ import annotations

import importlib
import importlib.util
import json
import os
import statistics
import sys
import time


def load_lines():
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lines.py")
    spec = importlib.util.spec_from_file_location("sheaf_perf_lines", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["sheaf_perf_lines"] = module
    spec.loader.exec_module(module)
    return module


def measure(work, multiplier: float, seconds: float, rounds: int) -> list[float]:
    """Units per second of `rounds` rounds of at least `seconds` each, after one round to warm up."""
    rates = []
    step = 1
    for round_number in range(rounds + 1):
        started = time.perf_counter()
        done = 0
        while True:
            for _ in range(step):
                work()
            done += step
            took = time.perf_counter() - started
            if took >= seconds:
                break
        step = max(1, done // 10)
        if round_number > 0:
            rates.append(done * multiplier / took)
    return rates


def main() -> None:
    name = sys.argv[1]
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # an engine's own chatter must not mix with the answers
    api = importlib.import_module(name)
    lines = load_lines()
    by_name = {line.name: line for line in lines.LINES}
    started = time.perf_counter()
    options = {"num_cpus": os.cpu_count() or 2, "resources": {"custom": 100}}
    if name == "ray":
        options.update(include_dashboard=False, log_to_driver=False)
    api.init(**options)
    first = lines.definitions(api)["small_value"].remote()
    api.get(first)
    version = getattr(api, "__version__", "?")
    print(json.dumps({"ready_seconds": time.perf_counter() - started, "version": version}), file=reply, flush=True)
    for text in sys.stdin:
        request = json.loads(text)
        line = by_name[request["line"]]
        try:
            generator = line.setup(api)
            work = next(generator)
            rates = measure(work, line.multiplier, request["seconds"], request["rounds"])
            next(generator, None)
            answer = {"median": statistics.median(rates), "low": min(rates), "high": max(rates), "n": len(rates)}
        except Exception as error:  # one line's failure is that line's result
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=reply, flush=True)
    started = time.perf_counter()
    api.shutdown()
    print(json.dumps({"shutdown_seconds": time.perf_counter() - started}), file=reply, flush=True)


if __name__ == "__main__":
    main()
