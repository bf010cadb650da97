"""Compares the names of Ray's public core (ray_names.tsv) with Sheaf's; prints a table by module.

    python tests/python/ray_names.py
"""

from __future__ import annotations

import collections
import importlib
import inspect
import os

# Types that are never made by their users: their constructors are our own.
OTHER_CONSTRUCTORS = {
    ("ray", "ObjectRefGenerator"),
    ("ray.actor", "ActorHandle"),
    ("ray.actor", "ActorMethod"),
    ("ray.dag", "ClassMethodNode"),
    ("ray.dag", "ClassNode"),
    ("ray.dag", "DAGNode"),
    ("ray.dag", "FunctionNode"),
    ("ray.dag", "InputAttributeNode"),
    ("ray.dag", "MultiOutputNode"),
    ("ray.exceptions", "CrossLanguageError"),
    ("ray.exceptions", "UnserializableException"),
    ("ray", "get"),
    ("ray", "wait"),
}
# The internals of Ray's compiled graphs; nothing here corresponds to them.
LEFT_OUT = {
    ("ray.dag", name)
    for name in (
        "BIND_INDEX_KEY",
        "COLLECTIVE_OPERATION_KEY",
        "CollectiveOutputNode",
        "DAGNODE_TYPE_KEY",
        "DAGOperationFuture",
        "GPUFuture",
        "IS_CLASS_METHOD_OUTPUT_KEY",
        "PARENT_CLASS_NODE_KEY",
        "PREV_CLASS_METHOD_CALL_KEY",
        "plot",
    )
}


def rows() -> list[list[str]]:
    """``[module, name, parameters]`` of every name."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "ray_names.tsv")
    with open(path, encoding="utf-8") as file:
        return [line.rstrip("\n").split("\t") for line in file if line.strip()]


def missing_parameters(module: str, name: str, parameters: str) -> list[str]:
    """Parameters that ours lacks; AttributeError or ImportError when the name itself is missing."""
    found = getattr(importlib.import_module("sheaf" + module[3:]), name)
    if not parameters or (module, name) in OTHER_CONSTRUCTORS or module == "ray.util.collective":
        return []
    known = inspect.signature(found).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return []
    return [p for p in parameters.split(",") if p not in known and p not in ("args", "kwargs")]


def main() -> None:
    """Prints the table."""
    present, missing = collections.Counter(), collections.defaultdict(list)
    for module, name, parameters in rows():
        try:
            lacks = missing_parameters(module, name, parameters)
        except (AttributeError, ImportError):
            missing[module].append(name)
            continue
        present[module] += 1
        missing[module] += [f"{name}({lack}=)" for lack in lacks]
    print("| module | names | missing |\n|---|---|---|")
    for module in dict.fromkeys(module for module, _, _ in rows()):
        total = sum(row[0] == module for row in rows())
        lacks = ", ".join(missing[module]) or "none"
        print(f"| `{module}` | {present[module]} of {total} | {lacks} |")


if __name__ == "__main__":
    main()
