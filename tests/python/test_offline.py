"""Parts that need no cluster: identities, packages, environments, log folding, metrics, helpers."""

import io
import os
import pickle
import zipfile

import pytest
from sheaf import _package, _runtime_env_worker, ids
from sheaf._logs import LogPrinter
from sheaf.runtime_env import RuntimeEnv, RuntimeEnvConfig


def test_identities():
    actor = ids.ActorID.from_random()
    assert ids.ActorID.from_hex(actor.hex()) == actor and ids.ActorID(actor.binary()) == actor
    assert (
        pickle.loads(pickle.dumps(actor)) == actor
        and len({actor, ids.ActorID(actor.binary())}) == 1
    )
    assert ids.NodeID(actor.binary()) != actor and not actor.is_nil() and ids.ActorID.nil().is_nil()
    assert ids.JobID.from_int(3).int() == 3 and ids.JobID.from_int(3).hex() == "00000003"
    with pytest.raises(ValueError, match="16 bytes"):
        ids.ActorID(b"x")
    with pytest.raises(TypeError):
        ids.ActorID("x")
    with pytest.raises(AttributeError):
        actor._binary = b""


# ---- Packages


def make_tree(root):
    (root / "pkg").mkdir()
    (root / "pkg" / "__init__.py").write_text("VALUE = 1\n")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "big.log").write_text("x")
    (root / "cache").mkdir()
    (root / "cache" / "data").write_text("x")
    (root / ".gitignore").write_text("*.log\ncache/\n# comment\n!keep.log\n")
    (root / "keep.log").write_text("x")


def test_packages_of_equal_trees_are_equal(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        make_tree(tmp_path / name)
    key_a, data_a = _package.pack(str(tmp_path / "a"), [], False, 1 << 20)
    key_b, data_b = _package.pack(str(tmp_path / "b"), [], False, 1 << 20)
    assert key_a == key_b and data_a == data_b
    names = set(zipfile.ZipFile(io.BytesIO(data_a)).namelist())
    assert names == {".gitignore", "keep.log", "run.sh", "pkg/__init__.py"}
    _package.unpack(data_a, str(tmp_path / "out"))
    assert (tmp_path / "out" / "pkg" / "__init__.py").read_text() == "VALUE = 1\n"
    assert os.access(tmp_path / "out" / "run.sh", os.X_OK)
    _package.unpack(data_a, str(tmp_path / "out"))  # again: nothing happens
    assert [name for name in os.listdir(tmp_path) if "partial" in name] == []


def test_a_package_may_hold_its_directory(tmp_path):
    make_tree(tmp_path)
    _, data = _package.pack(str(tmp_path / "pkg"), [], True, 1 << 20)
    assert zipfile.ZipFile(io.BytesIO(data)).namelist() == ["pkg/__init__.py"]


def test_packages_have_a_limit_and_stay_inside(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a").write_bytes(bytes(1000))
    with pytest.raises(ValueError, match="excludes"):
        _package.pack(str(tmp_path / "src"), [], False, 10)
    evil = io.BytesIO()
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("../outside", "x")
    with pytest.raises(ValueError, match="outside"):
        _package.unpack(evil.getvalue(), str(tmp_path / "evil"))
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize(
    "name, patterns, expected",
    [
        ("a.pyc", ["*.pyc"], True),
        ("x/a.pyc", ["*.pyc"], True),
        ("x/a.pyc", ["/a.pyc"], False),
        ("build/", ["build/"], True),
        ("build", ["build/"], False),
        ("x/build/", ["build/"], True),
        ("x/y/z.txt", ["x/*/z.txt"], True),
        ("keep.log", ["*.log", "!keep.log"], False),
        ("x/y/z", ["**/z"], True),
        ("docs/a", ["/docs"], False),
        ("docs/", ["/docs"], True),
    ],
)
def test_ignore_patterns(name, patterns, expected):
    assert _package.excluded(name, patterns) is expected


# ---- Runtime environments


@pytest.mark.parametrize(
    "fields, error, name",
    [
        ({"env_vars": 3}, TypeError, "env_vars"),
        ({"env_vars": {"a": 1}}, TypeError, "env_vars"),
        ({"env_vars": {1: "a"}}, TypeError, "env_vars"),
        ({"working_dir": 3}, TypeError, "working_dir"),
        ({"py_modules": "x"}, TypeError, "py_modules"),
        ({"pip": 3}, TypeError, "pip"),
        ({"pip": {}}, ValueError, "packages"),
        ({"pip": {"packages": [], "x": 1}}, ValueError, "x"),
        ({"pip": ["a"], "uv": ["b"]}, ValueError, "uv"),
        ({"conda": "x"}, ValueError, "conda"),
        ({"container": {"image": "x"}}, ValueError, "container"),
        ({"colour": 1}, ValueError, "colour"),
        ({"excludes": "x"}, TypeError, "excludes"),
        ({"worker_process_setup_hook": 3}, TypeError, "hook"),
        ({"worker_process_setup_hook": "x"}, ValueError, "hook"),
        ({"config": 3}, TypeError, "config"),
        ({"config": {"x": 1}}, ValueError, "config"),
        ({"config": {"setup_timeout_seconds": 0}}, ValueError, "setup_timeout_seconds"),
    ],
)
def test_a_wrong_field_is_named(fields, error, name):
    with pytest.raises(error, match=name):
        RuntimeEnv(**fields)


def test_environments_are_dicts():
    env = RuntimeEnv(env_vars={"a": "b"}, config=RuntimeEnvConfig(setup_timeout_seconds=5))
    assert env["env_vars"] == {"a": "b"} and env.env_vars() == {"a": "b"} and not env.has_pip()
    assert RuntimeEnv.deserialize(env.serialize()) == env
    assert env["config"]["setup_timeout_seconds"] == 5


def test_canonical_json_and_merging():
    from sheaf._runtime_env import canonical, merge

    assert canonical({"b": 1, "a": {"y": 1, "x": 2}}) == canonical(
        {"a": {"x": 2, "y": 1}, "b": 1, "c": None}
    )
    assert canonical({}) == "" and canonical({"env_vars": {}}) == ""
    assert merge(
        {"env_vars": {"a": "1", "b": "2"}, "pip": {"packages": ["x"]}}, {"env_vars": {"b": "3"}}
    ) == {"env_vars": {"a": "1", "b": "3"}, "pip": {"packages": ["x"]}}


def test_install_requests(tmp_path):
    from sheaf._runtime_env import _install_request

    (tmp_path / "r.txt").write_text("numpy\n# comment\n\nscipy>=1  # newer\n")
    assert _install_request(str(tmp_path / "r.txt"), "pip")["packages"] == ["numpy", "scipy>=1"]
    request = _install_request(
        {"packages": ["a"], "pip_install_options": ["--no-index"], "pip_check": True}, "pip"
    )
    assert request == {"packages": ["a"], "options": ["--no-index"], "check": True, "version": ""}
    with pytest.raises(ValueError, match="not a valid file"):
        _install_request(str(tmp_path / "none.txt"), "pip")


def test_variables_are_expanded():
    assert _runtime_env_worker.expand("${HOME}/x:${NO}$Y", {"HOME": "/h"}) == "/h/x:$Y"


def test_a_driver_without_environment_costs_nothing():
    _runtime_env_worker.apply_in_worker("", {})


# ---- Logs


def test_output_is_prefixed_and_floods_are_folded():
    now = [0.0]
    out, err = io.StringIO(), io.StringIO()
    printer = LogPrinter(out, err, fold=True, colour=False, clock=lambda: now[0])
    printer(1, False, "f", "hello")
    for pid in range(2, 10):
        printer(pid, False, "f", "hello")
    printer(1, False, "f", "hello")  # its own repetition is shown
    printer(1, True, "g", "one\ntwo")
    assert out.getvalue() == "(f pid=1) hello\n(f pid=1) hello\n"
    assert err.getvalue() == "(g pid=1) one\n(g pid=1) two\n"
    now[0] = 10.0
    printer.expire()
    assert "(f pid=9) hello [repeated 8x across workers]\n" in out.getvalue()


def test_lines_that_differ_in_numbers_only_are_folded():
    out = io.StringIO()
    printer = LogPrinter(out, out, fold=True, colour=False, clock=lambda: 0.0)
    printer(1, False, "f", "step 1 of 10")
    printer(2, False, "f", "step 2 of 10")
    printer.flush()
    assert (
        out.getvalue()
        == "(f pid=1) step 1 of 10\n(f pid=2) step 2 of 10 [repeated 1x across workers]\n"
    )


def test_folding_can_be_turned_off_and_a_closed_stream_is_no_error():
    out = io.StringIO()
    printer = LogPrinter(out, out, fold=False, colour=True)
    for pid in (1, 2):
        printer(pid, False, "", "x")
    assert out.getvalue().count("x\n") == 2 and "\033[" in out.getvalue()
    out.close()
    printer(3, False, "", "x")


# ---- Metrics


def test_metrics_check_names_and_tags():
    from sheaf.util.metrics import Counter, Gauge, Histogram

    with pytest.raises(ValueError, match="name"):
        Counter("1x")
    with pytest.raises(TypeError, match="tag_keys"):
        Gauge("g_offline", tag_keys=["a"])
    counter = Counter("c_offline", "what", ("a", "b")).set_default_tags({"b": "2"})
    with pytest.raises(ValueError, match="Missing"):
        counter.inc()
    with pytest.raises(ValueError, match="Unrecognized"):
        counter.inc(tags={"z": "1"})
    with pytest.raises(ValueError, match=">0"):
        counter.inc(0, tags={"a": "1"})
    counter.inc(2, tags={"a": "1"})
    pickle.loads(pickle.dumps(counter)).inc(3, tags={"a": "1"})  # the same metric of this process
    assert counter._samples() == [
        {"name": "c_offline", "help": "what", "kind": 0, "tags": {"a": "1", "b": "2"}, "value": 5.0}
    ]
    for bounds in (None, [], [-1], [2, 1]):
        with pytest.raises(ValueError, match="boundaries"):
            Histogram("h_offline", boundaries=bounds)
    histogram = Histogram("h_offline", boundaries=[1, 10])
    for value in (0.5, 5, 5, 50):
        histogram.observe(value)
    sample = histogram._samples()[0]
    assert sample["counts"] == [1, 2, 1] and sample["value"] == 60.5
    with pytest.raises(ValueError, match="another kind"):
        Gauge("h_offline")


# ---- State rows, placement groups, small helpers


def test_state_filters():
    from sheaf.util.state.rows import check_filters, make_row, matches

    row = make_row("actors", {"actor_id": "ab", "state": "ALIVE", "namespace": "n"})
    assert row.state == "ALIVE" and row["ray_namespace"] == "n" and row.pid is None
    assert matches(row, check_filters([("state", "=", "alive"), ("actor_id", "!=", "cd")]))
    assert not matches(row, [("state", "=", "DEAD")])
    with pytest.raises(ValueError, match="predicate"):
        check_filters([("a", ">", 1)])
    with pytest.raises(ValueError, match="column"):
        matches(row, [("colour", "=", 1)])
    with pytest.raises(AttributeError, match="colour"):
        row.colour


@pytest.mark.parametrize("bundles", [{}, [], [{}], [{"CPU": 0}], ["CPU"], [{"CPU": -1}]])
def test_malformed_bundles(bundles):
    from sheaf.util.placement_group import check_bundles

    with pytest.raises(ValueError):
        check_bundles(bundles)


def test_log_once():
    from sheaf.util import log_once

    assert log_once("a key") and not log_once("a key") and log_once("another key")


def test_serializers_are_used_by_pickle():
    import threading
    import cloudpickle
    from sheaf.util import deregister_serializer, register_serializer

    class Handle:
        def __init__(self, name):
            self.name, self.lock = name, threading.Lock()

    register_serializer(Handle, serializer=lambda h: h.name, deserializer=lambda name: Handle(name))
    assert pickle.loads(cloudpickle.dumps([Handle("x")]))[0].name == "x"
    deregister_serializer(Handle)
    deregister_serializer(Handle)
    with pytest.raises(TypeError):
        cloudpickle.dumps(Handle("x"))


def test_what_cannot_be_pickled_is_found(capsys):
    import threading
    from sheaf.util import inspect_serializability
    from sheaf.util.check_serialize import path_to_failure

    lock = threading.Lock()

    class Deep:
        def __init__(self):
            self.fine = 1
            self.inner = {"key": [lock]}

    def closure():
        return lock

    assert inspect_serializability(1) == (True, set())
    good, failures = inspect_serializability(closure)
    assert not good and "lock" in {failure.name for failure in failures}
    assert "lock" in capsys.readouterr().out
    assert path_to_failure(Deep(), "deep") == "deep.inner['key'][0]"


def test_sharing_out_chunks():
    from sheaf.util.multiprocessing.pool import Pool

    pool = Pool.__new__(Pool)
    pool._processes, pool._actors, pool._closed = 3, [], True
    assert [pool._calculate_chunksize(range(n)) for n in (1, 12, 13, 120)] == [1, 1, 2, 10]
    assert list(pool._chunks(range(5), 2)) == [[0, 1], [2, 3], [4]]
    with pytest.raises(ValueError, match="Chunksize"):
        list(pool._chunks(range(5), 0))
