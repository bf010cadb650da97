"""Drives engines line by line, interleaved, and prints the table. Behind `sheaf microbenchmark` and `make bench`."""
from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import time

from sheaf._perf import floors, lines

ENGINE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "engine.py")


class Engine:
    """One engine's process, asked for one line at a time."""

    def __init__(self, name: str, python: str) -> None:
        self.name = name
        started = time.perf_counter()
        dropped = () if name == "sheaf" else ("PYTHONPATH",)
        environment = {k: v for k, v in os.environ.items() if k not in dropped}
        self._process = subprocess.Popen([python, ENGINE, name], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                         stderr=subprocess.DEVNULL, text=True, env=environment)
        head = self._answer()
        self.version = head["version"]
        self.start_seconds = head["ready_seconds"]
        self.process_start_seconds = time.perf_counter() - started

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        text = self._process.stdout.readline()
        if not text:
            raise RuntimeError(f"the {self.name} process ended with code {self._process.wait()}")
        return json.loads(text)

    def run(self, name: str, seconds: float, rounds: int) -> dict:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"line": name, "seconds": seconds, "rounds": rounds}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> float:
        """Shuts the engine down; returns how long its shutdown() took, in seconds."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        seconds = self._answer()["shutdown_seconds"]
        self._process.wait(timeout=30)
        return seconds


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"


def _show(result: dict) -> str:
    return "failed" if "error" in result else _rate(result["median"])


def run(against: str | None = None, peer_python: str | None = None, only: str = "", seconds: float = 0.5,
        rounds: int = 3, json_path: str | None = None) -> int:
    """Runs the suite and prints it. `against`: a peer's module name, run by the interpreter `peer_python`, interleaved
    line by line. Returns 0 when every line of ours ran. Raises RuntimeError when an engine does not start."""
    limits = floors.measure()
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, "
          f"Python {platform.python_version()}; median of {rounds} rounds of {seconds} s")
    for name, (value, unit) in limits.items():
        print(f"  floor: {name:<22} {value:10.2f} {unit}")
    engines = [Engine("sheaf", sys.executable)]
    if against:
        engines.append(Engine(against, peer_python or sys.executable))
    for engine in engines:
        print(f"  {engine.name} {engine.version}: init() to first result {1000 * engine.start_seconds:.0f} ms")
    peer_title = against or ""
    print(f"\n{'line':<46} {'sheaf/s':>14} {'spread':>8} {peer_title:>12} {'ratio':>8}")
    results: dict[str, dict[str, dict]] = {}
    ratios: list[float] = []
    failed = 0
    for line in lines.LINES:
        if only and only not in line.name:
            continue
        answers = {e.name: e.run(line.name, seconds, rounds) for e in engines}
        results[line.name] = answers
        ours = answers["sheaf"]
        spread = "" if "error" in ours else f"{100 * (ours['high'] - ours['low']) / ours['median']:.0f} %"
        theirs = answers.get(against or "", {"error": ""})
        ratio_text = ""
        if "error" not in ours and "error" not in theirs:
            ratio = ours["median"] / theirs["median"]
            ratio_text = f"{ratio:.1f}x" + (" LOSS" if ratio < 1 else "")
            if not line.bandwidth:
                ratios.append(ratio)
        print(f"{line.name:<46} {_show(ours):>14} {spread:>8} {_show(theirs) if against else '':>12} {ratio_text:>8}",
              flush=True)
        if "error" in ours:
            failed += 1
            print(f"    {ours['error']}")
    if ratios:
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"\ngeometric mean of the ratios not bound by memory bandwidth: {mean:.1f}x over {len(ratios)} lines")
    ends = {e.name: e.close() for e in engines}
    print("shutdown(): " + ", ".join(f"{name} {1000 * s:.0f} ms" for name, s in ends.items()))
    if json_path:
        record = {
            "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(),
                        "kernel": platform.release(), "python": platform.python_version()},
            "versions": {e.name: e.version for e in engines},
            "start_seconds": {e.name: e.start_seconds for e in engines},
            "shutdown_seconds": ends,
            "seconds": seconds, "rounds": rounds,
            "floors": {name: {"value": v, "unit": u} for name, (v, u) in limits.items()},
            "lines": results,
        }
        with open(json_path, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)
    return 1 if failed else 0


def main(arguments: list[str] | None = None) -> int:
    """Command line of `sheaf microbenchmark`."""
    import argparse

    parser = argparse.ArgumentParser(prog="sheaf microbenchmark", description=__doc__.splitlines()[0])
    parser.add_argument("--against", metavar="ENGINE", help="a peer to run beside, e.g. ray")
    parser.add_argument("--peer-python", metavar="PATH", help="the interpreter that has the peer installed")
    parser.add_argument("--only", default="", metavar="TEXT", help="only lines whose name contains TEXT")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a round (default 0.5)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds after the warm-up (default 3)")
    parser.add_argument("--json", metavar="PATH", help="write the results there")
    o = parser.parse_args(arguments)
    return run(o.against, o.peer_python, o.only, o.seconds, o.rounds, o.json)


if __name__ == "__main__":
    sys.exit(main())
