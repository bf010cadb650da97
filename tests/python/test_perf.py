"""The benchmark commands: short runs of the real thing, and how they count."""

import json
import math
import subprocess
import sys
from xml.etree import ElementTree

import pytest
from sheaf._perf import environments, native, plot, table, task_graph, taskbench


def run(*arguments, timeout=100):
    return subprocess.run(
        [sys.executable, "-m", "sheaf", *arguments], capture_output=True, text=True, timeout=timeout
    )


def row(name, unit="/s", less_is_better=False, **values):
    made = table.Row(name, unit, rate=True, less_is_better=less_is_better)
    made.values = {key.replace("_", "."): value for key, value in values.items()}
    return made


def test_ratios_say_how_many_times_better_we_are():
    faster = row("faster", sheaf=[80.0, 100.0, 500.0], ray=[10.0])
    assert faster.ratio("ray") == 10 and faster.spread() == 4.2
    slower = row("slower", "ms", True, sheaf=[4.0], ray=[1.0])
    assert slower.ratio("ray") == 0.25
    assert "LOSS to ray" in table.line(slower, ["sheaf", "ray"])
    assert "LOSS" not in table.line(faster, ["sheaf", "ray"])
    text = table.summary([faster, slower], ["sheaf", "ray"])
    assert "lost: slower" in text and f"{math.sqrt(2.5):.1f}x" in text
    assert row("alone", sheaf=[1.0]).ratio("ray") is None


def test_metg_is_where_efficiency_falls_through_one_half():
    points = [(1000.0, 1.0), (100.0, 0.75), (10.0, 0.25), (5.0, 0.1)]
    assert taskbench.metg(points) == pytest.approx(math.sqrt(1000))
    assert taskbench.metg([(100.0, 0.9), (50.0, 0.8)]) == 50
    assert taskbench.metg([(100.0, 0.4), (50.0, 0.3)]) is None
    assert taskbench.metg([(100.0, 0.4), (80.0, 0.6), (70.0, 0.6)]) == 70


def test_a_sweep_of_a_system_with_known_overhead_finds_it():
    peak, overhead = 1e8 * taskbench.CORES, 20e-6

    def system(pattern, width, steps, iterations):
        tasks = width * steps
        seconds = tasks * (overhead + iterations / 1e8) / taskbench.CORES
        return taskbench.Point(iterations, tasks, seconds)

    points = taskbench.sweep(system, "trivial", 8, lambda: peak, 4000, 0.01)
    found = taskbench.metg([(p.granularity_us, p.efficiency) for p in points])
    assert found == pytest.approx(40, rel=0.05)   # half of 40 us is overhead


def test_a_point_that_met_a_change_of_the_machines_speed_is_taken_again():
    speeds = iter([1e8, 2e8, 2e8])
    runs = []

    def run():
        runs.append(taskbench.Point(1000, 10, 1e-4))
        return runs[-1]

    point = taskbench.steady(run, lambda: next(speeds))
    assert point is runs[1] and len(runs) == 2
    assert point.peak == 2e8 and point.efficiency == 0.5
    restless = iter([1e8, 2e8, 1e8, 1.5e8, 1e8])
    point = taskbench.steady(run, lambda: next(restless))
    assert len(runs) == 2 + taskbench.TRIES_MAX and point is runs[4]   # 1.0 to 1.5: the least change


def test_tasks_of_a_graph_notice_wrong_inputs():
    _, _, step = task_graph.make_step()
    left, own, right = ((1, i, 0.5) for i in (3, 4, 5))
    assert step("stencil_1d", 8, 2, 4, 3, left, own, right)[:2] == (2, 4)
    for given in ([own, left, right], [left, own], [(0, 3, 0.5), own, right]):
        with pytest.raises(AssertionError):
            step("stencil_1d", 8, 2, 4, 3, *given)


def test_python_and_cpp_make_the_same_graphs():
    path = native.program("taskbench_openmp") or native.program("taskbench_mpi")
    if path is None:
        pytest.skip("no Task Bench program of C++ was built")
    inputs, width_at, _ = task_graph.make_step()
    requests = "".join(f"inputs {p} 13 20\n" for p in task_graph.PATTERNS)
    done = subprocess.run([path], input=requests + "end\n", capture_output=True, text=True)
    for pattern, answer in zip(task_graph.PATTERNS, done.stdout.splitlines(), strict=True):
        expected = [
            ",".join(map(str, inputs(pattern, 13, t, i)))
            for t in range(20)
            for i in range(width_at(pattern, 13, t))
        ]
        assert answer == "ok " + ";".join(expected) + ";", pattern


def test_plots_are_well_formed():
    rows = [row("a <line> & more", sheaf=[100.0], ray=[1.0]), row("b", sheaf=[1.0], ray=[2.0])]
    for names in (["sheaf", "ray"], ["sheaf"]):
        ElementTree.fromstring(plot.ratios(rows, names, "title"))
    panels = {"fft": {"sheaf": [(100.0, 0.9), (1.0, 0.2)], "mpi": [(50.0, 1.0)]}}
    ElementTree.fromstring(plot.efficiency(panels, "title", {"fft": {"sheaf": 30.0}}))


def test_unknown_peers_are_refused(no_cluster):
    with pytest.raises(ValueError, match="unknown peer 'spark'"):
        environments.interpreter("spark")
    done = run("microbenchmark", "--against", "spark")
    assert done.returncode != 0 and "spark" in done.stderr and "Traceback" not in done.stderr


def test_microbenchmark_beside_a_peer(no_cluster, tmp_path):
    record, drawing = tmp_path / "a.json", tmp_path / "a.svg"
    done = run(
        "microbenchmark", "--against", "multiprocessing,concurrent.futures", "--parts", "lines",
        "--only", "tasks ", "--seconds", "0.02", "--rounds", "2",
        "--json", str(record), "--plot", str(drawing),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(record.read_text())
    engines = found["lines"]["single client tasks sync"]["engines"]
    assert set(engines) == {"sheaf", "multiprocessing", "concurrent.futures"}
    assert all(e["n"] == 2 and e["low"] <= e["median"] <= e["high"] for e in engines.values())
    assert set(found["lines"]["multi client tasks async"]["engines"]) == {"sheaf"}
    assert found["machine"]["cores"] and found["geometric_mean"]["multiprocessing"] > 0
    ElementTree.parse(drawing)


def test_a_life_from_start_to_end(no_cluster):
    done = run("microbenchmark", "--parts", "lives", "--only", "shutdown", "--rounds", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    for figure in ("init() to first result", "idle cluster, memory", "shutdown()"):
        assert figure in done.stdout, done.stdout


def test_taskbench_of_python_tasks(no_cluster, tmp_path):
    record = tmp_path / "a.json"
    done = run(
        "taskbench", "--cpp", "", "--python", "sheaf", "--graphs", "stencil_1d,tree",
        "--rounds", "1", "--seconds", "0.01", "--width", "4", "--json", str(record),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    graphs = json.loads(record.read_text())["languages"]["Python"]["graphs"]
    assert set(graphs) == {"stencil_1d", "tree"}
    assert all(point["tasks"] > 0 for point in graphs["tree"]["sheaf"]["points"][0])
