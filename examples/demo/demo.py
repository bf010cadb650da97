"""A tour of Sheaf on one machine, on real input: `make demo`, or `python examples/demo/demo.py`.

Five parts, each checked against a serial run of the same work: squares, a counter actor, a cross-validated
hyper-parameter sweep, an inverted index of the texts on this machine, and the same kind of map/reduce from C++.
"""
from __future__ import annotations

import argparse
import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import inverted_index
import report
import sweep

import sheaf


def squares(out: report.Report) -> None:
    """The five-line example."""

    @sheaf.remote
    def square(x: int) -> int:
        return x * x

    started = time.perf_counter()
    result = sheaf.get([square.remote(i) for i in range(1000)])
    took = time.perf_counter() - started
    expected = [i * i for i in range(1000)]
    out.check(result == expected, "1,000 squares")
    out.add("squares", took, None, "1,000 tasks, results inline in their replies")


def counter(out: report.Report) -> None:
    """One actor, ten thousand ordered calls."""

    @sheaf.remote
    class Counter:
        def __init__(self) -> None:
            self.value = 0

        def add(self, amount: int) -> int:
            self.value += amount
            return self.value

    started = time.perf_counter()
    actor = Counter.remote()
    values = sheaf.get([actor.add.remote(1) for _ in range(10_000)])
    took = time.perf_counter() - started
    out.check(values == list(range(1, 10_001)), "10,000 calls in order")
    out.add("counter actor", took, None, "10,000 ordered calls to one process")
    sheaf.kill(actor)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a smaller sweep and fewer texts")
    parser.add_argument("--cpp", metavar="PROGRAM", help="the C++ map/reduce example (default: where make built it)")
    options = parser.parse_args()

    out = report.Report()
    started = time.perf_counter()
    sheaf.init()
    out.step(f"cluster up after {1000 * (time.perf_counter() - started):.0f} ms: "
             f"{sheaf.cluster_resources().get('CPU', 0):.0f} CPUs")
    try:
        for title, part in (("1/5 squares", squares), ("2/5 counter actor", counter)):
            out.step(title)
            part(out)
        out.step("3/5 hyper-parameter sweep on handwritten digits")
        sweep.run(out, quick=options.quick)
        out.step("4/5 inverted index of this machine's texts")
        inverted_index.run(out, quick=options.quick)
        out.objects()
    finally:
        sheaf.shutdown()
    out.step("5/5 map/reduce from C++")
    inverted_index.run_cpp(out, options.cpp, quick=options.quick)
    return out.close()


if __name__ == "__main__":
    sys.exit(main())
