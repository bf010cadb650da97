"""Measures this machine's engine line by line, beside its floors and, interleaved, its peers."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from typing import Callable

from sheaf._perf import environments, floors, lines, machine, native, process, table
from sheaf._perf.process import Engine, EngineError

#: Figures of a life on a cluster of its own: unit, and whether less is better. "floor:" has no ratio.
LIFE_FIGURES = {
    "init() to first result": ("ms", True),
    "shutdown()": ("ms", True),
    "idle cluster, memory": ("MB", True),
    "idle cluster, processes": ("", True),
    "put of 100 MB arrays, first second": ("GB/s", False),
    "floor: memcpy of 100 MB, warm": ("GB/s", False),
    "new workers": ("/s", False),
    "queued tasks": ("", False),
    "queued tasks, in": ("/s", False),
    "queued task, bytes": ("B", True),
    "queued tasks, out": ("/s", False),
}


@dataclasses.dataclass
class Options:
    """What one run measures."""

    against: list[str] = dataclasses.field(default_factory=list)
    peer_python: str | None = None
    only: str = ""
    seconds: float = 0.5
    rounds: int = 3
    parts: tuple[str, ...] = ("lives", "lines", "native")


class Suite:
    """One run: engines, results, table."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.names = ["sheaf", *options.against]
        self.pythons = {"sheaf": sys.executable}
        for name in options.against:
            self.pythons[name] = options.peer_python or environments.interpreter(name)
        self.results: dict[str, table.Row] = {}
        self.versions: dict[str, str] = {}
        self.failed: list[str] = []

    def wanted(self, name: str) -> bool:
        return self.options.only in name

    # ---- Lives

    def run_lives(self) -> None:
        """Clusters of their own, one engine after the other, round by round."""
        n = max(8, 4 * (os.cpu_count() or 2))
        kinds: list[tuple[str, str, dict]] = [
            ("start", "init() to first result|shutdown()|idle cluster, memory|processes", {}),
            ("first_puts", "put of 100 MB arrays, first second", {}),
            ("workers", "new workers", {"workers": n}),
            ("queue", "queued task", {"seconds": 2.5}),
        ]
        for kind, names, options in kinds:
            if not any(self.options.only in name for name in names.split("|")):
                continue
            found: dict[str, dict[str, list[float]]] = {}
            for _ in range(self.options.rounds):
                for name in list(self.names):
                    for figure, value in self._live(name, kind, options).items():
                        found.setdefault(figure, {}).setdefault(name, []).append(value)
            for figure, values in found.items():
                unit, less = LIFE_FIGURES[figure]
                row = table.Row(figure, unit, less_is_better=less, floor=figure.startswith("floor"))
                row.values = values
                self.add(row)

    def _live(self, name: str, kind: str, options: dict) -> dict[str, float]:
        if kind == "first_puts" and name not in ("sheaf", "ray"):
            return {}
        # Interpreters of peers take long to start; the tasks must all have begun before they may end.
        hold = 1.0 if name == "sheaf" else 15.0 if name == "ray" else 3.0
        try:
            return process.live(name, self.pythons[name], kind, {**options, "hold_seconds": hold})
        except EngineError as error:
            self.note_failure(name, kind, str(error))
            return {}

    # ---- Lines

    def run_lines(self) -> None:
        """Every engine is up; each line's rounds go round the engines."""
        wanted = [line for line in lines.LINES if self.wanted(line.name)]
        if not wanted:
            return
        engines = {name: engine for name in self.names if (engine := self._start(name))}
        try:
            for line in wanted:
                self.add(self._run_line(line, engines))
        finally:
            for name, engine in engines.items():
                try:
                    engine.close()
                except EngineError as error:
                    self.note_failure(name, "shutdown", str(error))

    def _start(self, name: str) -> Engine | None:
        try:
            engine = Engine(name, self.pythons[name])
        except EngineError as error:
            self.note_failure(name, "start", str(error))
            return None
        self.versions[name] = engine.version
        return engine

    def _run_line(self, line: lines.Line, engines: dict[str, Engine]) -> table.Row:
        unit = "GB/s" if line.unit == "GB" else "/s"
        row = table.Row(line.name, unit, bandwidth=line.bandwidth, rate=True)
        takes_part = []
        for name, engine in list(engines.items()):
            answer = self._ask(engines, name, do="open", line=line.name, seconds=self._warm_up())
            if "error" in answer:
                row.errors[name] = answer["error"]
            elif "skipped" not in answer:
                takes_part.append(name)
        for _ in range(self.options.rounds):
            for name in list(takes_part):
                answer = self._ask(engines, name, do="round", seconds=self.options.seconds)
                if "rate" in answer:
                    row.values.setdefault(name, []).append(answer["rate"])
                else:
                    row.errors[name] = answer["error"]
                    takes_part.remove(name)
        for name in list(engines):
            self._ask(engines, name, do="close")
        for name, text in row.errors.items():
            self.note_failure(name, line.name, text)
        return row

    def _warm_up(self) -> float:
        return min(0.2, self.options.seconds)

    def _ask(self, engines: dict[str, Engine], name: str, **request: object) -> dict:
        if name not in engines:
            return {"error": "its process has ended"}
        try:
            return engines[name].ask(**request)
        except EngineError as error:
            del engines[name]
            return {"error": str(error)}

    # ---- C++

    def run_native(self) -> None:
        """The C++ programs, each with its floors in the same process."""
        found = False
        for name in ("bench_engine", "bench_lane", "bench_store"):
            for figure in native.figures(name, str(self.options.seconds), str(self.options.rounds)):
                found = True
                row = table.Row(figure["name"], figure["unit"], n=figure["n"])
                row.less_is_better = figure["unit"] in ("us", "ns", "ms", "B")
                row.values = {"sheaf": [figure["low"], figure["median"], figure["high"]]}
                if "floor" in figure:
                    row.floor_value, row.floor_name = figure["floor"], figure["floor_name"]
                if self.wanted(row.name):
                    self.add(row)
        if not found:
            print("C++ programs: not built with this installation (SHEAF_BUILD_BENCHMARKS)")

    # ---- Results

    def add(self, row: table.Row) -> None:
        self.results[row.name] = row
        print(table.line(row, self.names), flush=True)

    def note_failure(self, name: str, where: str, why: str) -> None:
        print(f"    {name}, {where}: {why}", flush=True)
        if name == "sheaf":
            self.failed.append(where)


def run(options: Options, json_path: str | None = None, plot_path: str | None = None) -> int:
    """Runs the suite and prints it; 0 when every line of ours ran. Raises ValueError for an unknown
    peer, RuntimeError when a peer cannot be installed.
    """
    suite = Suite(options)
    about = machine.describe()
    print(machine.title(about))
    print(f"median of {options.rounds} rounds of {options.seconds} s; rates unless a unit is named")
    limits = floors.measure()
    for name, (value, unit) in limits.items():
        print(f"  floor: {name:<22} {value:10.2f} {unit}")
    titles = {
        "lives": "a cluster of its own each time",
        "lines": "one line after the other on a running cluster",
        "native": "C++",
    }
    parts: dict[str, Callable[[], None]] = {
        "lives": suite.run_lives,
        "lines": suite.run_lines,
        "native": suite.run_native,
    }
    for part in options.parts:
        print(f"\n{table.head(titles[part], suite.names if part != 'native' else ['sheaf'])}")
        parts[part]()
    print(table.summary(suite.results.values(), suite.names))
    if json_path:
        record = {
            "machine": about,
            "versions": suite.versions,
            "method": {"rounds": options.rounds, "seconds": options.seconds},
            "floors": {name: {"value": v, "unit": u} for name, (v, u) in limits.items()},
            "lines": {row.name: row.record() for row in suite.results.values()},
            "geometric_mean": {
                name: table.geometric_mean(suite.results.values(), name) for name in options.against
            },
        }
        with open(json_path, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)
    if plot_path:
        from sheaf._perf import plot

        with open(plot_path, "w", encoding="utf-8") as file:
            file.write(plot.ratios(list(suite.results.values()), suite.names, machine.title(about)))
    return 1 if suite.failed else 0


def main(arguments: list[str] | None = None) -> int:
    """Command line of `sheaf microbenchmark`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["taskbench"]:
        from sheaf._perf import taskbench

        return taskbench.main(arguments[1:])
    parser = argparse.ArgumentParser(
        prog="sheaf microbenchmark",
        description=__doc__,
        epilog="`sheaf microbenchmark taskbench --help`: minimum effective task granularity.",
    )
    parser.add_argument(
        "--against",
        metavar="PEERS",
        default="",
        help=f"peers to run beside, with commas: {', '.join(environments.PEERS)}; "
        "installed into the cache folder when needed",
    )
    parser.add_argument("--peer-python", metavar="PATH", help="an interpreter that has the peers")
    parser.add_argument("--only", default="", metavar="TEXT", help="lines whose name has TEXT")
    parser.add_argument("--seconds", type=float, default=0.5, help="length of a round (0.5)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds after the warm-up (3)")
    parser.add_argument(
        "--parts", default="lives,lines,native", help="of lives, lines, native (all three)"
    )
    parser.add_argument("--json", metavar="PATH", help="write the results there")
    parser.add_argument("--plot", metavar="PATH", help="draw them there, as SVG")
    o = parser.parse_args(arguments)
    against = [name.strip() for name in o.against.split(",") if name.strip()]
    parts = tuple(name for name in ("lives", "lines", "native") if name in o.parts.split(","))
    options = Options(against, o.peer_python, o.only, o.seconds, max(1, o.rounds), parts)
    return run(options, o.json, o.plot)


if __name__ == "__main__":
    sys.exit(main())
