"""The nodes of a graph of bound calls, and its execution.

A node holds a call and its arguments; arguments that are nodes, also inside of lists, tuples, sets
and dicts, are the edges. An execution visits what its root needs in the order of binding, each node
once, and passes references on: the engine resolves them, the driver waits for nothing.
"""

from __future__ import annotations

import uuid


class DAGNode:
    """One call that has been bound and not yet made."""

    def __init__(self, args=(), kwargs=None, options=None):
        self._bound_args = tuple(args)
        self._bound_kwargs = dict(kwargs or {})
        self._bound_options = dict(options or {})
        self._stable_uuid = uuid.uuid4().hex
        if self._graph_inputs() > 1:
            raise AssertionError(
                "Each DAG should only have one unique InputNode; this one was bound with several."
            )

    def execute(self, *args, **kwargs):
        """Makes all calls that this node needs; gives what its own call gives.

        Args: what the graph's `InputNode` stands for. A function or method gives its ObjectRef, a
        class the handle of a new actor, a `MultiOutputNode` a list.
        """
        values: dict[int, object] = {}
        for node in self._in_order():
            bound_args = _replaced(node._bound_args, values)
            bound_kwargs = _replaced(node._bound_kwargs, values)
            values[id(node)] = node._run(bound_args, bound_kwargs, values, (args, kwargs))
        return values[id(self)]

    def experimental_compile(self, *_, **__):
        """The graph with the calls of a compiled one (`CompiledDAG`).

        The parameters, which size Ray's channels, are accepted and have no meaning here.
        """
        from .compiled import CompiledDAG

        return CompiledDAG(self)

    def with_tensor_transport(self, *_, **__) -> "DAGNode":
        """This node: how a tensor travels is the engine's choice."""
        return self

    def get_args(self) -> tuple:
        """The positional arguments it was bound with."""
        return self._bound_args

    def get_kwargs(self) -> dict:
        """The keyword arguments it was bound with."""
        return dict(self._bound_kwargs)

    def get_options(self) -> dict:
        """The options of its call."""
        return dict(self._bound_options)

    def get_stable_uuid(self) -> str:
        """An identity that copies and pickles keep."""
        return self._stable_uuid

    def __getattr__(self, name):
        if name == "remote":
            raise AttributeError(
                f".remote() cannot be used on a {type(self).__name__}, which is part of a graph: "
                "bind() it further and execute() the result."
            )
        raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    def _run(self, args, kwargs, values, given):
        raise NotImplementedError

    def _needs(self) -> list["DAGNode"]:
        """The nodes to visit before this one."""
        found: list[DAGNode] = []
        _collect(self._bound_args, found)
        _collect(self._bound_kwargs, found)
        return found

    def _in_order(self) -> list["DAGNode"]:
        """Everything this node needs, and itself, each once and after what it needs."""
        order: list[DAGNode] = []
        seen: set[int] = set()
        stack: list[tuple[DAGNode, bool]] = [(self, False)]
        while stack:
            node, is_ready = stack.pop()
            if is_ready:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((need, False) for need in reversed(node._needs()))
        return order

    def _graph_inputs(self) -> int:
        # The nodes below were counted when they were made: looking one level down is enough.
        inputs = {id(i): i for need in self._needs() for i in need._inputs.values()}
        self._inputs = inputs
        return len(inputs)

    def _live_actors(self) -> list:
        """Handles of the actors that the graph calls and did not make."""
        handles = [n._parent for n in self._in_order() if isinstance(n, ClassMethodNode)]
        return list({h: h for h in handles if not isinstance(h, DAGNode)})


def _collect(value, found: list) -> None:
    if isinstance(value, DAGNode):
        found.append(value)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            _collect(item, found)
    elif isinstance(value, dict):
        for item in value.values():
            _collect(item, found)


def _replaced(value, values: dict):
    if isinstance(value, DAGNode):
        return values[id(value)]
    if isinstance(value, dict):
        changed = {key: _replaced(item, values) for key, item in value.items()}
        return changed if type(value) is dict else _same_type(value, changed)
    if isinstance(value, (list, tuple, set, frozenset)):
        items = [_replaced(item, values) for item in value]
        if all(new is old for new, old in zip(items, value)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _same_type(original, changed: dict):
    if all(changed[key] is original[key] for key in changed):
        return original
    copy = original.copy()
    copy.update(changed)
    return copy


class FunctionNode(DAGNode):
    """A bound call of a remote function."""

    def __init__(self, function, args, kwargs):
        super().__init__(args, kwargs, function._options)
        self._function = function

    def _run(self, args, kwargs, values, given):
        return self._function.remote(*args, **kwargs)

    def __str__(self):
        return f"FunctionNode({self._function._function_name})"


class ClassNode(DAGNode):
    """An actor that each execution makes anew; its methods are bound by ``node.name.bind(...)``.

    Calls bound to one actor run in the order of binding: a later one needs the earlier ones.
    """

    def __init__(self, actor_class, args, kwargs):
        super().__init__(args, kwargs, actor_class._options)
        if self._inputs:
            raise ValueError(
                "An InputNode stands for what execute() will be given, and so cannot be an "
                "argument in a ClassNode constructor: it is not known at class construction or "
                "binding time."
            )
        self._actor_class = actor_class
        self._last_call = None

    def _run(self, args, kwargs, values, given):
        return self._actor_class.remote(*args, **kwargs)

    def __getattr__(self, name):
        if name.startswith("_") or "_actor_class" not in self.__dict__:
            return super().__getattr__(name)
        actor_class = getattr(self._actor_class, "_actor_class", self._actor_class)
        if name == "bind":
            raise AttributeError(f".bind() cannot be used again on {self}: bind its methods.")
        if not hasattr(actor_class.__dict__["__ray_actor_class__"], name):
            raise AttributeError(f"'{actor_class.__name__}' has no attribute '{name}'")
        return _UnboundMethod(self, name, {})

    def __str__(self):
        actor_class = getattr(self._actor_class, "_actor_class", self._actor_class)
        return f"ClassNode({actor_class.__name__})"


class _UnboundMethod:
    """A method of a `ClassNode`, to be bound."""

    def __init__(self, actor: ClassNode, name: str, options: dict):
        self._actor = actor
        self._name = name
        self._options = options

    def bind(self, *args, **kwargs) -> "ClassMethodNode":
        """The call with these arguments, after those bound before."""
        node = ClassMethodNode(self._actor, self._name, args, kwargs, self._options)
        self._actor._last_call = node
        return node

    def options(self, **changes) -> "_UnboundMethod":
        """The same method with options, for ``bind``."""
        return _UnboundMethod(self._actor, self._name, {**self._options, **changes})

    def __getattr__(self, name):
        if name == "remote":
            raise AttributeError(
                ".remote() cannot be used on ClassMethodNodes, which are part of a graph: use "
                ".bind() instead."
            )
        raise AttributeError(name)


class ClassMethodNode(DAGNode):
    """A bound call of an actor's method; the actor is a `ClassNode` or the handle of a live one."""

    def __init__(self, parent, name: str, args, kwargs, options):
        self._parent = parent
        self._method_name = name
        self._previous = getattr(parent, "_last_call", None) if _is_node(parent) else None
        super().__init__(args, kwargs, options)

    def get_method_name(self) -> str:
        """The name of the method."""
        return self._method_name

    def _needs(self):
        before = [self._parent] if _is_node(self._parent) else []
        if self._previous is not None:
            before.append(self._previous)
        return before + super()._needs()

    def _run(self, args, kwargs, values, given):
        parent = self._parent
        handle = values[id(parent)] if _is_node(parent) else parent
        method = getattr(handle, self._method_name)
        if self._bound_options:
            method = method.options(**self._bound_options)
        return method.remote(*args, **kwargs)

    def __str__(self):
        return f"ClassMethodNode({self._method_name})"


def _is_node(value) -> bool:
    return isinstance(value, DAGNode)


class _PartNode(DAGNode):
    """One of the results of a call with several."""

    def __init__(self, whole: DAGNode, index: int):
        super().__init__((whole,))
        self._index = index

    def _run(self, args, kwargs, values, given):
        return args[0][self._index]


def bind_method(handle, name: str, options: dict, args, kwargs):
    """The node for a live actor's method; a tuple of nodes when the call gives several results."""
    node = ClassMethodNode(handle, name, args, kwargs, options)
    n_returns = options.get("num_returns")
    if isinstance(n_returns, int) and n_returns > 1:
        return tuple(_PartNode(node, index) for index in range(n_returns))
    return node


class InputNode(DAGNode):
    """What `execute` will be called with. Made in a ``with`` block; a graph has one.

    ``node[0]``, ``node["key"]`` and ``node.key`` stand for one positional or keyword argument, or
    for a part of the only argument.
    """

    def __init__(self, *args, input_type=None, **kwargs):
        if args or kwargs:
            raise ValueError("InputNode should not take any args or kwargs: execute() gives them.")
        self._entered = False
        self._parts = {}
        super().__init__()
        self.input_type = input_type

    def _graph_inputs(self) -> int:
        self._inputs = {id(self): self}
        return 1

    def __enter__(self) -> "InputNode":
        self._entered = True
        return self

    def __exit__(self, *_):
        pass

    def __getattr__(self, name):
        if name.startswith("_") or "_parts" not in self.__dict__:
            return super().__getattr__(name)
        return self._part(name, is_attribute=True)

    def __getitem__(self, key):
        if not isinstance(key, (int, str)):
            raise AssertionError(
                "Please only use int index or str as first-level key to access the input of a "
                "graph."
            )
        return self._part(key, is_attribute=False)

    def _part(self, key, is_attribute: bool) -> "InputAttributeNode":
        part = (key, is_attribute)
        if part not in self._parts:
            self._parts[part] = InputAttributeNode(self, key, is_attribute)
        return self._parts[part]

    def _run(self, args, kwargs, values, given):
        if not self._entered:
            raise AssertionError(
                "InputNode is a singleton instance that should be only used in context manager: "
                "with InputNode() as inp, around the calls that are bound with it."
            )
        positional, named = given
        if len(positional) == 1 and not named:
            return positional[0]
        return DAGInputData(*positional, **named)

    def __str__(self):
        return "InputNode()"


class InputAttributeNode(DAGNode):
    """One part of the input."""

    def __init__(self, whole: InputNode, key, is_attribute: bool):
        super().__init__((whole,))
        self._key = key
        self._is_attribute = is_attribute

    def _run(self, args, kwargs, values, given):
        whole = args[0]
        if isinstance(whole, DAGInputData) or not self._is_attribute:
            return whole[self._key]
        return getattr(whole, self._key)

    def __str__(self):
        return f"InputAttributeNode({self._key!r})"


class DAGInputData:
    """Several arguments of an execution: by position or by name."""

    def __init__(self, *args, **kwargs):
        self._args = list(args)
        self._kwargs = kwargs

    def __getitem__(self, key):
        return self._args[key] if isinstance(key, int) else self._kwargs[key]


class MultiOutputNode(DAGNode):
    """Several nodes executed as one: ``MultiOutputNode([a, b]).execute()`` gives a list."""

    def __init__(self, args):
        is_list = isinstance(args, (list, tuple))
        if not is_list or not all(isinstance(item, DAGNode) for item in args):
            raise ValueError(f"A MultiOutputNode takes a list of nodes, not {args!r}.")
        super().__init__(args)

    def _run(self, args, kwargs, values, given):
        return list(args)

    def __str__(self):
        return f"MultiOutputNode({len(self._bound_args)})"
