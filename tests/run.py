"""Runs every test of Sheaf and closes with one line: `N passed, N failed, N skipped`.

Order: lint, C++ (ctest: unit, sim, fuzz), the lab's hosts, Python, installation, then a look for
anything left behind. Everything runs with a runtime folder of its own, so that whatever stays in
it, or any process that still carries this run's mark, is a leak. Arguments name the parts to run;
the exit code is 0 only when nothing failed.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import uuid
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = "SHEAF_TEST_RUN"
GRACE_S = 20.0  # how long a process may take to leave after the last test


class Count:
    """Results by test, with the names of what failed or was skipped."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed: list[str] = []
        self.skipped: list[str] = []
        self.notes: list[str] = []

    def add_case(self, case: ElementTree.Element, prefix: str = "") -> None:
        name = f"{prefix}{case.get('classname', '')}.{case.get('name', '')}"
        skipped = case.find("skipped")
        if case.find("failure") is not None or case.find("error") is not None:
            self.failed.append(name)
        elif skipped is not None or case.get("result") == "skipped":
            reason = (skipped.get("message") or "") if skipped is not None else ""
            self.skipped.append(f"{name}: {reason}" if reason else name)
        elif case.get("status") not in ("notrun", "disabled"):
            self.passed += 1


def build_dir() -> Path:
    """The folder in which pip built this interpreter's wheel: the C++ tests are in it."""
    tag = sysconfig.get_config_var("SOABI").split("-")[1]
    found = sorted((ROOT / "build").glob(f"cp{tag}-*"), key=lambda p: p.stat().st_mtime)
    if not found:
        sys.exit("no build folder: run `make env`")
    return found[-1]


def run_ctest(count: Count, out: Path) -> None:
    # Simulators, checkers and fuzzers only compute. The others one by one: many measure bounded
    # waits, and two cores are quickly oversubscribed.
    compute = "^(sim|fuzz)$"
    run_ctest_part(count, out, "one-by-one", ["-LE", compute])
    run_ctest_part(count, out, "in-parallel", ["-L", compute, "-j", str(os.cpu_count() or 1)])


def run_ctest_part(count: Count, out: Path, name: str, words: list[str]) -> None:
    build = build_dir()
    xml_dir = out / f"gtest-{name}"
    xml_dir.mkdir()
    junit = out / f"ctest-{name}.xml"
    env = dict(os.environ, GTEST_OUTPUT=f"xml:{xml_dir}/", GTEST_BRIEF="1")
    command = ["ctest", "--test-dir", str(build), "--output-on-failure"]
    command += ["--test-output-size-passed", "8192", "--output-junit", str(junit)]
    subprocess.run([*command, *words], env=env, check=False)
    if not junit.exists():
        count.failed.append("ctest (did not run)")
        return
    if line := proof(ElementTree.parse(junit)):
        count.notes.append(line)
    for case in ElementTree.parse(junit).iter("testcase"):
        binary = case.get("name", "")
        details = xml_dir / f"{binary}.xml"
        before = len(count.failed)
        if details.exists():
            for one in ElementTree.parse(details).iter("testcase"):
                count.add_case(one)
        elif case.get("status") == "run":
            count.passed += 1
        # A binary can fail after its last test, or die before it could write a report.
        if case.get("status") == "fail" and len(count.failed) == before:
            count.failed.append(binary)


def proof(tree: ElementTree.ElementTree) -> str:
    """What the simulators and checkers did, in one line; nothing if none of them ran."""
    names = ("seeds", "clusters", "nodes in all", "events", "faults", "deaths of nodes", "states")
    names += ("violations",)
    sums = dict.fromkeys(names, 0)
    mutants = killed = 0
    for case in tree.iter("testcase"):
        program, _, mutant = re.sub("_(sim|checker)", r"\1:", case.get("name", "")).partition(":")
        if not re.fullmatch("[a-z]+(sim|checker)", program):
            continue
        if mutant:
            mutants += 1
            killed += case.get("status") == "run"
            continue
        text = case.findtext("system-out") or ""
        for line in text.splitlines():
            if line.startswith(("simulated ", "checked ")):
                for name in names:
                    found = re.search(rf"(\d+) {name}", line)
                    sums[name] += int(found[1]) if found else 0
    if not mutants:
        return ""
    sums["seeds"] += sums.pop("clusters")
    said = ", ".join(f"{count} {name}" for name, count in sums.items())
    return f"simulators and checkers: {said}; {killed} of {mutants} mutants killed"


def run_pytest(count: Count, out: Path, folder: str) -> None:
    if not (ROOT / "tests" / folder).is_dir():
        return
    junit = out / f"pytest-{folder}.xml"
    result = subprocess.run(
        [sys.executable, "-m", "pytest", f"tests/{folder}", f"--junitxml={junit}", "-rs"],
        cwd=ROOT,
        check=False,
    )
    if not junit.exists():
        count.failed.append(f"tests/{folder} (pytest exit code {result.returncode})")
        return
    before = len(count.failed)
    for case in ElementTree.parse(junit).iter("testcase"):
        count.add_case(case)
    if result.returncode not in (0, 5) and len(count.failed) == before:
        count.failed.append(f"tests/{folder} (pytest exit code {result.returncode})")


def marked_processes(mark: str) -> dict[int, str]:
    """Live processes that inherited this run's mark, other than this one."""
    found = {}
    wanted = f"{MARK}={mark}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if wanted not in (entry / "environ").read_bytes().split(b"\0"):
                continue
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = re.search(r"^State:\s+(\S)", (entry / "status").read_text(), re.M)
        except OSError:
            continue
        if state is None or state.group(1) != "Z":
            found[int(entry.name)] = command.strip()[:120]
    return found


def shared_memory() -> set[str]:
    return (
        {p.name for p in Path("/dev/shm").glob("*sheaf*")} if Path("/dev/shm").is_dir() else set()
    )


def check_leaks(count: Count, mark: str, runtime_dir: Path, shm_before: set[str]) -> None:
    """Nothing may be left: no process, no shared-memory file, no session folder."""
    deadline = time.monotonic() + GRACE_S
    while marked_processes(mark) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [f"process {pid}: {command}" for pid, command in marked_processes(mark).items()]
    left += [f"/dev/shm/{name}" for name in sorted(shared_memory() - shm_before)]
    left += [f"session file {p.relative_to(runtime_dir)}" for p in sorted(runtime_dir.rglob("*"))][
        :20
    ]
    for pid in marked_processes(mark):
        os.kill(pid, signal.SIGKILL)
    if left:
        count.failed += [f"left behind: {item}" for item in left]
    else:
        count.passed += 1


PARTS = ("lint", "cpp", "lab", "python", "install")


def main() -> int:
    parts = sys.argv[1:] or list(PARTS)
    unknown = [p for p in parts if p not in PARTS]
    if unknown:
        sys.exit(f"unknown part {unknown[0]}: choose from {', '.join(PARTS)}")
    started = time.monotonic()
    # A shell that starts us in the background has SIGINT ignored: programs under test inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    count = Count()
    mark = uuid.uuid4().hex
    out = Path(tempfile.mkdtemp(prefix="sheaf-test-"))
    runtime_dir = out / "run"
    runtime_dir.mkdir(mode=0o700)
    os.environ[MARK] = mark
    os.environ["XDG_RUNTIME_DIR"] = str(runtime_dir)
    # The compiler cache would keep its scratch files there too, for the programs that tests build.
    os.environ["CCACHE_TEMPDIR"] = str(out / "ccache")
    shm_before = shared_memory()
    try:
        for part in parts:
            print(f"==> {part}", flush=True)
            if part == "cpp":
                run_ctest(count, out)
            else:
                run_pytest(count, out, part)
        print("==> anything left behind?", flush=True)
        check_leaks(count, mark, runtime_dir, shm_before)
    finally:
        shutil.rmtree(out, ignore_errors=True)
    for note in count.notes:
        print(note)
    for name in count.skipped:
        print(f"skipped: {name}")
    for name in count.failed:
        print(f"FAILED: {name}")
    print(f"took {time.monotonic() - started:.0f} s")
    print(
        f"{count.passed} passed, {len(count.failed)} failed, {len(count.skipped)} skipped",
        flush=True,
    )
    return 1 if count.failed else 0


if __name__ == "__main__":
    sys.exit(main())
