"""Tasks with GPUs run in processes of their own: a process that has found no device keeps to that."""

from __future__ import annotations

import os

import sheaf


@sheaf.remote
def where():
    return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")


@sheaf.remote(num_gpus=1)
class Holder:
    def where(self):
        return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES")


def test_no_worker_that_ran_a_task_without_gpus_gets_one(fresh):
    fresh(num_cpus=2, num_gpus=2)
    without = {pid for pid, _ in sheaf.get([where.remote() for _ in range(30)])}
    pid, devices = sheaf.get(where.options(num_gpus=1, num_cpus=1).remote())
    assert pid not in without and devices in ("0", "1")
    holder = Holder.remote()
    held_by, device = sheaf.get(holder.where.remote())
    assert held_by not in without | {pid} and device in ("0", "1")
    again = {pid for pid, _ in sheaf.get([where.remote() for _ in range(30)])}
    assert not again & {pid, held_by}
