"""Peers that have no API like Ray's, shown as one: `remote`, `get`, `wait`, `map`, `init`, `shutdown`.

Loaded in the peer's own interpreter, so nothing of sheaf is imported. The layer adds one Python call
to each of theirs, well under a microsecond. `FEATURES` of an API says which lines it can run.
"""

from __future__ import annotations

import importlib
import os
import time
from typing import Any, Callable

lines = importlib.import_module("lines")
WORKERS = os.cpu_count() or 2


def small_value() -> bytes:
    return b"ok"


def echo(value: Any) -> Any:
    return value


def count_arguments(*values: Any) -> int:
    return len(values)


def hold(path: str) -> tuple[float, int]:
    """Keeps a worker until the file is gone, two minutes at most; when it began, and where."""
    began = time.time()
    while os.path.exists(path) and time.time() < began + 120:
        time.sleep(0.005)
    return began, os.getpid()


class Function:
    """A function with a `remote()` that hands it to the peer."""

    def __init__(self, submit: Callable, function: Callable) -> None:
        self._submit, self._function = submit, function

    def remote(self, *values: Any) -> Any:
        return self._submit(self._function, *values)


class FutureApi:
    """Over anything with `submit(function, *values)` that returns a future with `result()`."""

    FEATURES: frozenset[str] = frozenset()

    def __init__(self, name: str) -> None:
        self.__name__ = name
        module = importlib.import_module(name.split(".")[0])
        own = name in ("multiprocessing", "concurrent.futures")
        self.__version__ = "of Python" if own else getattr(module, "__version__", "?")

    def remote(self, function: Callable) -> Function:
        return Function(self.submit, function)

    def define(self) -> None:
        functions = (small_value, echo, count_arguments, hold)
        self._sheaf_perf_definitions = {f.__name__: self.remote(f) for f in functions}

    def get(self, value: Any) -> Any:
        if isinstance(value, list):
            return [future.result() for future in value]
        return value.result()

    def init(self, workers: int = WORKERS) -> None:
        raise NotImplementedError

    def submit(self, function: Callable, *values: Any) -> Any:
        raise NotImplementedError

    def shutdown(self) -> None:
        raise NotImplementedError


class Multiprocessing(FutureApi):
    """`multiprocessing.Pool`, whose results have `get()`."""

    FEATURES = frozenset({"map"})

    def init(self, workers: int = WORKERS) -> None:
        import multiprocessing

        self._pool = multiprocessing.Pool(workers)

    def submit(self, function: Callable, *values: Any) -> Any:
        return self._pool.apply_async(function, values)

    def get(self, value: Any) -> Any:
        if isinstance(value, list):
            return [result.get() for result in value]
        return value.get()

    def map(self, function: Callable, values: Any) -> list:
        return self._pool.map(function, values)

    def shutdown(self) -> None:
        self._pool.terminate()
        self._pool.join()


class Executor(FutureApi):
    """Over a `concurrent.futures.Executor`."""

    FEATURES = frozenset({"map", "wait"})

    def __init__(self, name: str, make: Callable) -> None:
        super().__init__(name)
        self._make = make

    def init(self, workers: int = WORKERS) -> None:
        self._executor = self._make(workers)

    def submit(self, function: Callable, *values: Any) -> Any:
        return self._executor.submit(function, *values)

    def map(self, function: Callable, values: Any) -> list:
        chunk = max(1, len(values) // (4 * WORKERS))   # what multiprocessing.Pool chooses
        return list(self._executor.map(function, values, chunksize=chunk))

    def wait(self, futures: list) -> tuple[list, list]:
        from concurrent.futures import FIRST_COMPLETED, wait

        done, pending = wait(futures, return_when=FIRST_COMPLETED)
        return list(done), list(pending)

    def shutdown(self) -> None:
        self._executor.shutdown()


class Dask(FutureApi):
    """Dask distributed: a scheduler here, worker processes of one thread each, no dashboard."""

    FEATURES = frozenset({"refs", "wait", "put"})

    def init(self, workers: int = WORKERS) -> None:
        from distributed import Client, LocalCluster

        self._cluster = LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
        )
        self._client = Client(self._cluster)

    def submit(self, function: Callable, *values: Any) -> Any:
        return self._client.submit(function, *values, pure=False)

    def put(self, value: Any) -> Any:
        return self._client.scatter(value, hash=False)

    def get(self, value: Any) -> Any:
        return self._client.gather(value)

    def wait(self, futures: list) -> tuple[list, list]:
        from distributed import wait

        done, pending = wait(futures, return_when="FIRST_COMPLETED")
        return list(done), list(pending)

    def shutdown(self) -> None:
        self._client.close()
        self._cluster.close()


class Parsl(FutureApi):
    """Parsl's HighThroughputExecutor on this machine."""

    FEATURES = frozenset({"refs"})

    def init(self, workers: int = WORKERS) -> None:
        import tempfile

        import parsl
        from parsl.config import Config
        from parsl.executors import HighThroughputExecutor
        from parsl.providers import LocalProvider

        self._directory = tempfile.TemporaryDirectory(prefix="sheaf-perf-parsl-")
        executor = HighThroughputExecutor(
            address="127.0.0.1",
            loopback_address="127.0.0.1",
            max_workers_per_node=workers,
            cores_per_worker=1e-6,
            provider=LocalProvider(init_blocks=1, max_blocks=1),
        )
        self._parsl = parsl
        parsl.load(Config(executors=[executor], run_dir=self._directory.name, usage_tracking=0))

    def remote(self, function: Callable) -> Function:
        from parsl import python_app

        return Function(lambda app, *values: app(*values), python_app(function))

    def shutdown(self) -> None:
        self._parsl.dfk().cleanup()
        self._directory.cleanup()


def _processes(workers: int) -> Any:
    from concurrent.futures import ProcessPoolExecutor

    return ProcessPoolExecutor(workers)


def _mpi(workers: int) -> Any:
    from mpi4py.futures import MPIPoolExecutor

    return MPIPoolExecutor(workers)


def load(name: str) -> Any:
    """The API called `name`. Raises ImportError when it is not installed."""
    if name == "multiprocessing":
        api: Any = Multiprocessing(name)
    elif name == "concurrent.futures":
        api = Executor(name, _processes)
    elif name == "mpi4py.futures":
        api = Executor(name, _mpi)
    elif name == "dask":
        api = Dask(name)
    elif name == "parsl":
        api = Parsl(name)
    else:
        module = importlib.import_module(name)
        module.FEATURES = lines.EVERYTHING
        return module
    return api


def start(api: Any, workers: int | None = None) -> None:
    """Starts the engine on this machine with `workers` slots, one a core when not said."""
    n = workers or WORKERS
    if isinstance(api, FutureApi):
        api.init(n)
        api.define()
        return
    options: dict[str, Any] = {"num_cpus": n, "resources": {"custom": 100}}
    if api.__name__ == "ray":
        options.update(include_dashboard=False, log_to_driver=False)
    api.init(**options)
