"""Graphs of bound calls."""

from __future__ import annotations

import asyncio
import collections

import pytest

import sheaf
from sheaf.dag import DAGContext, InputNode, MultiOutputNode


@pytest.fixture(scope="module", autouse=True)
def joined(cluster):
    return cluster


@sheaf.remote
def add(left, right=0):
    return left + right


@sheaf.remote
def double(number):
    return 2 * number


@sheaf.remote(num_cpus=0)
class Account:
    def __init__(self, balance=0):
        self.balance = balance

    def pay_in(self, amount):
        self.balance += amount
        return self.balance

    def get(self):
        return self.balance

    def halves(self, number):
        return number // 2, number - number // 2


def test_nothing_runs_before_execute_and_each_node_runs_once():
    account = Account.remote()
    shared = account.pay_in.bind(1)
    graph = add.bind(shared, add.bind(shared, right=shared))
    assert sheaf.get(account.get.remote()) == 0
    assert sheaf.get(graph.execute()) == 3
    assert sheaf.get(account.get.remote()) == 1
    assert sheaf.get(graph.execute()) == 6


def test_arguments_may_be_nested():
    @sheaf.remote
    def total(groups):
        return sum(sum(sheaf.get(list(group))) for group in groups.values())

    Pair = collections.namedtuple("Pair", "first second")
    graph = total.bind({"a": [double.bind(1), double.bind(2)], "b": Pair(double.bind(3), double.bind(4))})
    assert sheaf.get(graph.execute()) == 20


def test_the_input_stands_for_one_value_or_for_its_parts():
    with InputNode() as number:
        graph = add.bind(double.bind(number), number)
    assert sheaf.get(graph.execute(5)) == 15

    with InputNode() as given:
        graph = add.bind(given[0], given.right)
    assert sheaf.get(graph.execute(1, right=2)) == 3

    with InputNode() as given:
        graph = add.bind(given["left"], given["right"])
    assert sheaf.get(graph.execute({"left": 1, "right": 4})) == 5

    Point = collections.namedtuple("Point", "x y")
    with InputNode() as point:
        graph = add.bind(point.x, point.y)
    assert sheaf.get(graph.execute(Point(3, 4))) == 7


def test_an_execution_makes_its_actors_and_keeps_the_order_of_their_calls():
    account = Account.options(num_cpus=0).bind(100)
    account.pay_in.bind(1)
    account.pay_in.bind(2)
    graph = account.get.bind()
    assert sheaf.get(graph.execute()) == 103
    assert sheaf.get(graph.execute()) == 103
    handle = Account.bind(add.bind(1, 2)).execute()
    assert sheaf.get(handle.get.remote()) == 3


def test_a_graph_has_several_outputs_and_calls_have_several_results():
    account = Account.remote()
    low, high = account.halves.options(num_returns=2).bind(7)
    graph = MultiOutputNode([low, high, add.bind(low, high)])
    assert sheaf.get(graph.execute()) == [3, 4, 7]


def test_a_compiled_graph_gives_the_same_results():
    actors = [Account.remote(index) for index in range(3)]
    with InputNode() as amount:
        graph = MultiOutputNode([actor.pay_in.bind(amount) for actor in actors])
    compiled = graph.experimental_compile()
    assert sheaf.get(compiled.execute(10)) == [10, 11, 12]

    async def twice():
        return [sheaf.get(await compiled.execute_async(1)) for _ in range(2)]

    assert asyncio.run(twice()) == [[11, 12, 13], [12, 13, 14]]
    compiled.teardown(kill_actors=True)
    with pytest.raises(RuntimeError, match="torn down"):
        compiled.execute(1)
    with pytest.raises(sheaf.exceptions.RayActorError):
        sheaf.get(actors[0].get.remote())
    assert DAGContext.get_current() is DAGContext.get_current()


def test_long_chains_need_no_stack():
    node = double.bind(0)
    for _ in range(1500):
        node = add.bind(node, 1)
    assert sheaf.get(node.execute()) == 1500


def test_errors_come_when_a_graph_is_written_or_run():
    with InputNode() as one, InputNode() as other:
        with pytest.raises(AssertionError, match="one unique InputNode"):
            add.bind(one, other)
        with pytest.raises(ValueError, match="constructor"):
            Account.bind(one)
        with pytest.raises(AssertionError, match="int index or str"):
            one[1, 2]
    with pytest.raises(AssertionError, match="only used in context"):
        double.bind(InputNode()).execute(1)
    with pytest.raises(ValueError, match="not take any args"):
        InputNode(1)
    with pytest.raises(ValueError, match="list of nodes"):
        MultiOutputNode(3)
    with pytest.raises(AttributeError, match="bind"):
        double.bind(1).remote()
    account = Account.bind()
    with pytest.raises(AttributeError, match="nothing_like_it"):
        account.nothing_like_it.bind()
    with pytest.raises(AttributeError, match="bind"):
        account.get.remote()
    with pytest.raises(ZeroDivisionError):
        sheaf.get(sheaf.remote(lambda: 1 // 0).bind().execute())
