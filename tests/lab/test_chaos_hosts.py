"""Hosts under fire: processes and whole nodes die at random while a program checks every byte.

The program's expected values are computed from seeds alone, so a wrong, old or foreign byte is
seen. Everything random comes from one seed, which a failure prints.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from cluster import Cluster
from lab import Lab

RUN_S = float(os.environ.get("SHEAF_TEST_CHAOS_S", "25"))
KILLS = 300  # at least, however slow the machine is
LONGEST_S = RUN_S + 150
# The program keeps more than the stores hold; what is spilled goes to a small disk of its own.
SPILL_DISK = "/tmp/spill"
SPILL_MB = 96
SETTINGS = (
    "cluster.lease=60s",  # no pause of this test outlasts it; ports tell of killed daemons
    "store.memory=32MiB",
    "store.full_wait=60s",
    f"store.spill_dir={SPILL_DISK}",
)
SEED = int(os.environ.get("SHEAF_TEST_CHAOS_SEED", "0")) or random.SystemRandom().randrange(1 << 31)

PROGRAM = """
import random

def data_of(seed, size):
    return numpy.random.default_rng(seed).integers(0, 256, size, dtype=numpy.uint8)

def digest_of(array):
    return hashlib.blake2b(array.tobytes(), digest_size=16).hexdigest()

@sheaf.remote(max_retries=-1, scheduling_strategy="SPREAD")
def make(seed, size):
    time.sleep(0.002)
    return data_of(seed, size)

@sheaf.remote(max_retries=-1, scheduling_strategy="SPREAD")
def digest(*arrays):
    return [digest_of(a) for a in arrays]

@sheaf.remote(max_retries=-1, scheduling_strategy="SPREAD")
def nested(seeds, size):
    return [make.remote(s, size) for s in seeds]

@sheaf.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0.1)
class Counter:
    def __init__(self):
        self.n = 0
    def add(self):
        self.n += 1
        return (socket.gethostname(), os.getpid()), self.n

rng = random.Random({seed})
checked = bytes_checked = calls = rounds = 0
counters = [Counter.remote() for _ in range(4)]
last = [(None, 0)] * len(counters)
kept = []  # of earlier rounds: spilled meanwhile, or lost and made again
while not os.path.exists("{stop}"):
    rounds += 1
    plan = [(rng.randrange(1 << 30), rng.choice([10, 3000, 90_000, 700_000])) for _ in range(24)]
    refs = [make.remote(s, n) for s, n in plan]
    digests = [digest.remote(*refs[i:i + 4]) for i in range(0, len(refs), 4)]
    beats = [[c.add.remote() for _ in range(5)] for c in counters]
    for got, i in zip(sheaf.get(digests, timeout=60), range(0, len(refs), 4)):
        for (s, n), d in zip(plan[i:i + 4], got):
            assert d == digest_of(data_of(s, n)), ("digest", s, n)
            checked += 1
            bytes_checked += n
    for (s, n), ref in list(zip(plan, refs))[::5]:
        assert (sheaf.get(ref, timeout=60) == data_of(s, n)).all(), ("value", s, n)
        checked += 1
        bytes_checked += n
    for k, answers in enumerate(beats):
        for life, n in sheaf.get(answers, timeout=60):
            # In one life a counter only grows; a new life begins at 1.
            assert life != last[k][0] or n > last[k][1], ("order", last[k], life, n)
            last[k] = (life, n)
            calls += 1
    seeds = [rng.randrange(1 << 30) for _ in range(3)]
    try:
        for s, inner in zip(seeds, sheaf.get(nested.remote(seeds, 20_000), timeout=60)):
            assert (sheaf.get(inner, timeout=60) == data_of(s, 20_000)).all()
            checked += 1
    except (sheaf.exceptions.ObjectLostError, sheaf.exceptions.OwnerDiedError):
        pass  # whoever submitted the inner task has died: an error, never a wrong value
    kept = (kept + list(zip(plan, refs)))[-600:]
    for (s, n), ref in rng.sample(kept, 4):
        assert (sheaf.get(ref, timeout=60) == data_of(s, n)).all(), ("kept", s, n)
        checked += 1
        bytes_checked += n
    del refs, digests
print(f"DONE {rounds=} {checked=} {bytes_checked=} {calls=}", flush=True)
"""

# A driver that lives until it is killed, with tasks, objects and an actor of its own.
BYSTANDER = """
@sheaf.remote(max_retries=-1, scheduling_strategy="SPREAD", num_cpus=0.1)
def make(i):
    return numpy.full(50_000, i % 251, dtype=numpy.uint8)

@sheaf.remote(max_restarts=-1, max_task_retries=-1, num_cpus=0.1)
class Keeper:
    def __init__(self):
        self.refs = []
    def keep(self, refs):
        self.refs = (self.refs + refs)[-20:]
        return len(self.refs)

keeper = Keeper.remote()
i = 0
while True:
    refs = [make.remote(i + k) for k in range(4)]
    for k, value in enumerate(sheaf.get(refs, timeout=60)):
        assert (value == (i + k) % 251).all(), ("bystander", i + k)
    sheaf.get(keeper.keep.remote([refs]), timeout=60)
    i += 4
    print("turn", flush=True)
"""

# Nobody but this program is left: all that the dead held has come back.
AFTERWARDS = """
from sheaf.util import state

def gone(found):
    end = time.monotonic() + 30.0
    while found():
        assert time.monotonic() < end, found()
        time.sleep(0.05)

mine = sheaf.get_runtime_context().get_job_id()
gone(lambda: [j for j in state.list_jobs()
              if j["status"] == "RUNNING" and j["job_id"] != mine])
gone(lambda: state.list_actors(filters=[("state", "!=", "DEAD")]))
gone(lambda: state.list_objects())
wait_for(lambda: sheaf.available_resources()["CPU"] == sheaf.cluster_resources()["CPU"])
"""


class Sniper:
    """Kills, stops and cuts; counts what it did."""

    def __init__(self, cluster: Cluster, rng: random.Random):
        self.cluster, self.rng = cluster, rng
        self.counts = dict.fromkeys(
            ("workers", "daemons", "drivers", "stops", "cuts", "full disks"), 0
        )
        self.drivers: dict[int, subprocess.Popen] = {}

    def workers(self) -> list[int]:
        found = []
        for host in range(self.cluster.lab.hosts):
            for pid in self.cluster.pids(host):
                with contextlib.suppress(OSError):
                    parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
                    if Path(f"/proc/{parent}/comm").read_text() == "sheaf-template\n":
                        found.append(pid)
        return found

    def shoot(self) -> None:
        roll = self.rng.random()
        if roll < 0.90:
            targets = self.workers()
            if targets:
                self._signal(self.rng.choice(targets), signal.SIGKILL, "workers")
        elif roll < 0.92:
            pid = self.cluster.daemon_pid(self.rng.randrange(1, self.cluster.lab.hosts))
            self._signal(pid, signal.SIGSTOP, "stops")
            self._pause()
            self._signal(pid, signal.SIGCONT, None)
        elif roll < 0.94:
            host = self.rng.randrange(self.cluster.lab.hosts)
            self.cluster.lab.cut(host)
            self._pause()
            self.cluster.lab.heal(host)
            self.counts["cuts"] += 1
        elif roll < 0.96:
            self._fill_a_disk(self.rng.randrange(self.cluster.lab.hosts))
        elif roll < 0.985:
            self._kill_a_driver(self.rng.randrange(self.cluster.lab.hosts))
        else:
            host = self.rng.randrange(1, self.cluster.lab.hosts)
            self._signal(self.cluster.daemon_pid(host), signal.SIGKILL, "daemons")
            self.cluster.daemons[host].wait(20)
            self.cluster.join(host)

    def _pause(self) -> None:
        time.sleep(self.rng.uniform(0.05, 0.8))

    def _fill_a_disk(self, host: int) -> None:
        ballast = f"{SPILL_DISK}/ballast"
        # Takes what there is: how much that is depends on what has been spilled.
        self.cluster.lab.run(host, ["sh", "-c", f"head -c {SPILL_MB}M /dev/zero > {ballast}"])
        self._pause()
        self.cluster.lab.run(host, ["rm", "-f", ballast])
        self.counts["full disks"] += 1

    def _kill_a_driver(self, host: int) -> None:
        """Kills one driver of a host in its work and starts the next, which lives until then."""
        old = self.drivers.pop(host, None)
        if old is not None:
            if old.poll() is None:
                old.kill()
                self.counts["drivers"] += 1
            said, _ = old.communicate()
            assert "AssertionError" not in said, said
        self.drivers[host] = self.cluster.start(BYSTANDER, host)

    def end(self) -> None:
        for driver in self.drivers.values():
            driver.kill()
            driver.communicate()

    def kills(self) -> int:
        return sum(self.counts[kind] for kind in ("workers", "daemons", "drivers"))

    def _signal(self, pid: int, number: int, kind: str | None) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return
        if kind:
            self.counts[kind] += 1


def small_disk(lab: Lab, host: int) -> None:
    made = f"mkdir {SPILL_DISK} && mount -t tmpfs -o size={SPILL_MB}m spill {SPILL_DISK}"
    done = lab.run(host, ["sh", "-c", made])
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(LONGEST_S + 200)
def test_every_byte_is_right_while_everything_dies(capsys):
    rng = random.Random(SEED)
    with Lab(3) as lab, Cluster(lab, settings=SETTINGS, prepare=small_disk) as cluster:
        stop = cluster.folder / "stop"
        text = PROGRAM.replace("{seed}", str(SEED)).replace("{stop}", str(stop))
        program = cluster.start(text)
        sniper = Sniper(cluster, rng)
        try:
            time.sleep(2.0)
            start = time.monotonic()
            while program.poll() is None and time.monotonic() < start + LONGEST_S:
                if sniper.kills() >= KILLS and time.monotonic() > start + RUN_S:
                    break
                sniper.shoot()
                time.sleep(rng.uniform(0.02, 0.12))
            stop.touch()
            out, _ = program.communicate(timeout=150)
        except subprocess.TimeoutExpired:
            program.kill()
            sniper.end()
            raise AssertionError(f"seed {SEED}: the program hangs after {sniper.counts}") from None
        sniper.end()
        assert program.returncode == 0 and "DONE" in out, f"seed {SEED}, {sniper.counts}:\n{out}"
        summary = next(line for line in out.splitlines() if line.startswith("DONE"))
        logs = cluster.lab.run(0, ["sh", "-c", "tail -n 5 /tmp/sheaf-0/*/logs/sheafd.log"]).stdout
        assert "check failed" not in logs.lower(), logs
        cluster.run(AFTERWARDS)
    with capsys.disabled():
        done = f"{sniper.kills()} kills {sniper.counts}, {summary[5:]}, wrong 0"
        print(f"\nchaos over hosts: seed {SEED}, {done}")
    assert sniper.kills() >= KILLS, sniper.counts
