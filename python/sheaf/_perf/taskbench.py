"""Task Bench: the smallest task for which a system is still half busy with the tasks themselves.

METG(50 %), the minimum effective task granularity, as Slaughter et al. (SC'20) define it. A graph is
run with ever shorter tasks. Granularity is wall time x cores / tasks; efficiency is the work done a
second over what the bare kernel did on all cores just before and after, because shared machines are
twice as fast in one second as in the next. METG(50 %) is the granularity where efficiency falls
through one half, interpolated on a logarithmic axis. Every task checks that its inputs are those of
the graph.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import json
import math
import os
import statistics
import sys
from typing import Any, Callable, Optional

from sheaf._perf import environments, machine, native, task_graph
from sheaf._perf.process import Engine, EngineError, Served

CORES = os.cpu_count() or 2
CPP_SYSTEMS = ("sheaf", "mpi", "openmp", "starpu")
PYTHON_SYSTEMS = ("sheaf", "dask", "ray", "parsl", "multiprocessing", "concurrent.futures")
STEPS_MIN, STEPS_MAX = 5, 2000
#: The bare kernel is timed for so long between two points. A point whose two peaks differ by more than this share
#: was met by a change of the machine's speed, and is taken again.
PEAK_SECONDS = 0.03
PEAK_SHARE = 0.15
TRIES_MAX = 4
POINTS_MAX = 24
FINEST_US = 0.01


class Point:
    """One run of one graph; `peak` is the bare kernel's rate around it."""

    def __init__(self, iterations: int, tasks: int, seconds: float) -> None:
        self.iterations, self.tasks, self.seconds = iterations, tasks, seconds
        self.peak = math.nan

    @property
    def rate(self) -> float:
        """Iterations of the kernel per second, all tasks together."""
        return self.iterations * self.tasks / self.seconds

    @property
    def granularity_us(self) -> float:
        return 1e6 * self.seconds * CORES / self.tasks

    @property
    def efficiency(self) -> float:
        return self.rate / self.peak

    def record(self) -> dict:
        return {
            "iterations": self.iterations,
            "tasks": self.tasks,
            "seconds": self.seconds,
            "granularity_us": self.granularity_us,
            "peak_iterations_per_s": self.peak,
            "efficiency": self.efficiency,
        }


#: Iterations per second of the bare kernel on all cores, now.
Peak = Callable[[], float]
#: Runs a graph: (pattern, width, steps, iterations) -> a point, or None when it is not supported.
Run = Callable[[str, int, int, int], Optional[Point]]


def metg(points: list[tuple[float, float]], level: float = 0.5) -> float | None:
    """Granularity at which efficiency falls through `level`; points are (granularity, efficiency) in
    the order of ever shorter tasks. None when it never was above; the smallest seen when it never
    fell.
    """
    before = None
    for granularity, efficiency in points:
        if efficiency < level:
            if before is None:
                continue   # the first, longest tasks may still suffer from a cold start
            above, high = before
            share = (high - level) / (high - efficiency)
            return math.exp(math.log(above) + share * (math.log(granularity) - math.log(above)))
        if before is None or granularity < before[0]:
            before = (granularity, efficiency)
    return before[0] if before else None


def steady(run: Callable[[], Point | None], peak: Peak) -> Point | None:
    """A point between two peaks that agree; of several that were met by a change, the one met least."""
    best: tuple[float, Point] | None = None
    before = peak()
    for _ in range(TRIES_MAX):
        point = run()
        if point is None:
            return None
        after = peak()
        change = abs(after - before) / max(after, before)
        point.peak = (before + after) / 2
        if best is None or change < best[0]:
            best = (change, point)
        if change <= PEAK_SHARE:
            break
        before = after
    assert best is not None
    return best[1]


def sweep(run: Run, pattern: str, width: int, peak: Peak, start_us: float, seconds: float) -> list[Point]:
    """Halves the tasks until efficiency is well below one half."""
    points: list[Point] = []
    per_us = 1e-6 * peak() / CORES
    wanted_us = start_us
    per_task_us = start_us
    below = 0
    while len(points) < POINTS_MAX and wanted_us > FINEST_US and below < 2:
        iterations = max(1, round(wanted_us * per_us))
        steps = int(seconds * 1e6 * CORES / (width * max(wanted_us, per_task_us)))
        steps = min(max(steps, STEPS_MIN), STEPS_MAX)
        point = steady(functools.partial(run, pattern, width, steps, iterations), peak)
        if point is None:
            break
        points.append(point)
        per_task_us = 0.7 * point.granularity_us
        below = below + 1 if point.efficiency < 0.45 else 0
        if iterations == 1:
            break
        wanted_us /= 2
    return points


# ---- Systems


class CppSystem:
    """A Task Bench program of perf/, or nothing when it was not built."""

    def __init__(self, name: str, path: str) -> None:
        command = [path]
        environment = native.environment()
        environment["STARPU_HOME"] = environments.cache_folder()
        environment["STARPU_SILENT"] = "1"
        if name == "mpi":
            as_root = ["--allow-run-as-root"] if os.getuid() == 0 else []
            command = ["mpirun", *as_root, "--use-hwthread-cpus", "-n", str(CORES), path]
        self._served = Served(name, command, environment)

    def ask(self, *words: object) -> list[str]:
        """The words of the answer after "ok". Raises EngineError."""
        self._served.write_line(" ".join(map(str, words)))
        status, *rest = self._served.read_line().split()
        if status != "ok":
            raise EngineError(f"{self._served.name}: {' '.join(rest)}")
        return rest

    def run(self, pattern: str, width: int, steps: int, iterations: int) -> Point | None:
        seconds, tasks = self.ask("graph", pattern, width, steps, iterations)
        return Point(iterations, int(tasks), float(seconds))

    def close(self) -> None:
        try:
            self._served.write_line("end")
        except EngineError:
            pass
        self._served.end()


class PythonSystem:
    """An engine of engine.py."""

    def __init__(self, name: str) -> None:
        python = sys.executable if name == "sheaf" else environments.interpreter(name)
        self._engine = Engine(name, python)

    def run(self, pattern: str, width: int, steps: int, iterations: int) -> Point | None:
        graph = {"pattern": pattern, "width": width, "steps": steps, "iterations": iterations}
        answer = self._engine.ask(do="graph", graph=graph)
        if "error" in answer:
            raise EngineError(answer["error"])
        if "skipped" in answer:
            return None
        return Point(iterations, answer["tasks"], answer["seconds"])

    def close(self) -> None:
        self._engine.close()


class PythonKernel:
    """The bare kernel of Python tasks, in a process for each core."""

    def __init__(self) -> None:
        self._pool = concurrent.futures.ProcessPoolExecutor(CORES)
        list(self._pool.map(abs, range(CORES)))   # all of them are up

    def peak(self) -> float:
        return sum(self._pool.map(task_graph.calibrate, [PEAK_SECONDS] * CORES))

    def close(self) -> None:
        self._pool.shutdown()


class CppKernel:
    """The bare kernel of the C++ programs: any of them has it, OpenMP's does least while it waits."""

    def __init__(self) -> None:
        built = {name: native.program(f"taskbench_{name}") for name in ("openmp", *CPP_SYSTEMS)}
        name, path = next((name, path) for name, path in built.items() if path is not None)
        self._program = CppSystem(name, path)

    def peak(self) -> float:
        return float(self._program.ask("calibrate", PEAK_SECONDS, CORES)[0])

    def close(self) -> None:
        self._program.close()


# ---- A run


class Language:
    """Task Bench in one language: its systems, and what they did."""

    def __init__(self, title: str, start_us: float) -> None:
        self.title, self.start_us = title, start_us
        self.systems: dict[str, Any] = {}
        self.kernel: Any = None
        #: graph -> system -> rounds of points
        self.found: dict[str, dict[str, list[list[Point]]]] = {}

    def measure(self, options: argparse.Namespace, graphs: list[str]) -> None:
        """The systems take turns, graph by graph and round by round."""
        for _ in range(options.rounds):
            for graph in graphs:
                for name, system in list(self.systems.items()):
                    try:
                        points = sweep(
                            system.run, graph, options.width, self.kernel.peak, self.start_us,
                            options.seconds,
                        )  # fmt: skip
                    except EngineError as error:
                        print(f"  {self.title}, {name}, {graph}: {error}", flush=True)
                        del self.systems[name]
                        continue
                    if points:
                        self.found.setdefault(graph, {}).setdefault(name, []).append(points)

    def close(self) -> None:
        closing = dict(self.systems)
        if self.kernel is not None:
            closing["the bare kernel"] = self.kernel
        for name, system in closing.items():
            try:
                system.close()
            except EngineError as error:
                print(f"  {self.title}, {name}: {error}", flush=True)

    def curve(self, points: list[Point]) -> list[tuple[float, float]]:
        return [(p.granularity_us, p.efficiency) for p in points]

    def peaks(self) -> list[float]:
        return [p.peak for systems in self.found.values() for r in systems.values() for ps in r for p in ps]

    def metg_rounds(self, graph: str, system: str) -> list[float]:
        rounds = self.found.get(graph, {}).get(system, [])
        values = [metg(self.curve(points)) for points in rounds]
        return [value for value in values if value is not None]

    def metg(self, graph: str, system: str) -> float | None:
        values = self.metg_rounds(graph, system)
        return statistics.median(values) if values else None

    def names(self) -> list[str]:
        known: dict[str, None] = {}
        for systems in self.found.values():
            known.update(dict.fromkeys(systems))
        return list(known)

    def table(self) -> str:
        names = self.names()
        text = f"\n{self.title}: METG(50 %), us"
        if peaks := self.peaks():
            text += f"; the bare kernel did {min(peaks):.3g} to {max(peaks):.3g} iterations/s"
        text += f"\n{'graph':<12}"
        text += "".join(f" {name:>20}" for name in names)
        for graph in self.found:
            text += f"\n{graph:<12}"
            values = {name: self.metg(graph, name) for name in names}
            for name in names:
                text += f" {'-' if values[name] is None else f'{values[name]:,.3g}':>20}"
            ours = values.get("sheaf")
            losses = [n for n, v in values.items() if ours and v and n != "sheaf" and v < ours]
            if losses:
                text += f"  LOSS to {', '.join(losses)}"
        return text

    def record(self) -> dict:
        graphs: dict[str, dict] = {}
        for graph, systems in self.found.items():
            for name, rounds in systems.items():
                values = self.metg_rounds(graph, name)
                graphs.setdefault(graph, {})[name] = {
                    "metg_us": self.metg(graph, name),
                    "n": len(values),
                    "low": min(values, default=None),
                    "high": max(values, default=None),
                    "points": [[p.record() for p in points] for points in rounds],
                }
        return {"graphs": graphs}


def _start_cpp(wanted: list[str]) -> Language:
    language = Language("C++", start_us=4000)
    for name in wanted:
        path = native.program(f"taskbench_{name}")
        if path is None:
            print(f"  C++, {name}: not built here")
            continue
        language.systems[name] = CppSystem(name, path)
    if language.systems:
        language.kernel = CppKernel()
    return language


def _start_python(wanted: list[str]) -> Language:
    language = Language("Python", start_us=64_000)
    for name in wanted:
        try:
            language.systems[name] = PythonSystem(name)
        except (EngineError, RuntimeError) as error:
            print(f"  Python, {name}: {error}")
    language.kernel = PythonKernel()
    return language


def _chosen(text: str, known: tuple[str, ...]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise ValueError(f"unknown {name!r}: choose from {', '.join(known)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sheaf taskbench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--cpp", default=",".join(CPP_SYSTEMS), help=f"of {', '.join(CPP_SYSTEMS)}; '' for none")
    add("--python", default="sheaf,dask,ray", help=f"of {', '.join(PYTHON_SYSTEMS)}; '' for none")
    add("--graphs", default=",".join(task_graph.PATTERNS), help="with commas; all when not said")
    add("--width", type=int, default=max(8, 4 * CORES), help="points in a row (4 a core)")
    add("--seconds", type=float, default=0.1, help="of each run (0.1)")
    add("--rounds", type=int, default=3, help="sweeps of which the median is shown (3)")
    add("--json", metavar="PATH", help="write all points there")
    add("--plot", metavar="PATH", help="draw efficiency curves there, as SVG (a language a file)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Command line of `sheaf taskbench`. Raises ValueError for unknown names."""
    o = _parser().parse_args(arguments)
    graphs = _chosen(o.graphs, task_graph.PATTERNS)
    cpp, python = _chosen(o.cpp, CPP_SYSTEMS), _chosen(o.python, PYTHON_SYSTEMS)
    about = machine.describe()
    print(machine.title(about))
    print(f"Task Bench, rows of {o.width}, median of {o.rounds} sweeps", flush=True)
    languages = []
    for start, wanted in ((_start_cpp, cpp), (_start_python, python)):
        if not wanted:
            continue
        language = start(wanted)
        try:
            language.measure(o, graphs)
        finally:
            language.close()
        print(language.table(), flush=True)
        languages.append(language)
    if o.json:
        record = {"machine": about, "width": o.width, "rounds": o.rounds, "seconds": o.seconds}
        record["languages"] = {each.title: each.record() for each in languages}
        with open(o.json, "w", encoding="utf-8") as file:
            json.dump(record, file, indent=1)
    if o.plot:
        _draw(o.plot, languages, machine.title(about))
    return 0 if all("sheaf" in each.names() for each in languages) else 1


def _draw(path: str, languages: list[Language], title: str) -> None:
    from sheaf._perf import plot

    stem, ending = os.path.splitext(path)
    for language in languages:
        panels = {
            graph: {name: language.curve(rounds[-1]) for name, rounds in systems.items()}
            for graph, systems in language.found.items()
        }
        values = {g: {n: language.metg(g, n) for n in language.names()} for g in panels}
        name = path if len(languages) == 1 else f"{stem}-{language.title.lower()[:1]}{ending}"
        with open(name, "w", encoding="utf-8") as file:
            file.write(plot.efficiency(panels, f"{language.title}: {title}", values))


if __name__ == "__main__":
    sys.exit(main())
