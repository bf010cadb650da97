"""Large numbers and large objects; warnings about what cannot be placed."""

import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import sheaf

GIB = 1 << 30


def available_bytes() -> int:
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable"))


def test_a_hundred_thousand_queued_tasks(cluster):
    @sheaf.remote
    def identity(x):
        return x

    refs = [identity.remote(i) for i in range(100_000)]
    assert sheaf.get(refs) == list(range(100_000))


def test_ten_thousand_calls_of_an_actor(cluster):
    @sheaf.remote
    class Sum:
        def __init__(self):
            self.total = 0

        def add(self, x):
            self.total += x
            return self.total

    total = Sum.remote()
    refs = [total.add.remote(1) for _ in range(10_000)]
    assert sheaf.get(refs[-1]) == 10_000 and sheaf.get(refs[5000]) == 5001


@pytest.mark.slow
@pytest.mark.skipif(available_bytes() < 12 * GIB, reason="needs 12 GB of free memory")
def test_an_object_of_four_gigabytes(fresh):
    fresh(num_cpus=1, object_store_memory=5 * GIB)
    array = np.zeros(4 * GIB, dtype=np.uint8)
    array[::GIB] = 7
    array[-1] = 9
    ref = sheaf.put(array)
    del array

    @sheaf.remote
    def look(data):
        return data.nbytes, int(data[GIB]), int(data[-1])

    assert sheaf.get(look.remote(ref), timeout=100) == (4 * GIB, 7, 9)


def test_an_infeasible_request_is_explained(no_cluster):
    code = """
    import sheaf
    sheaf.init(num_cpus=1, _system_config={"scheduler.warn_interval": "1s"})
    f = sheaf.remote(lambda: 1)
    try:
        sheaf.get(f.options(resources={"unobtainium": 2}).remote(), timeout=4)
    except TimeoutError:
        print("waited")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ),
    )
    assert done.stdout.strip() == "waited" and "unobtainium" in done.stderr, done.stderr
