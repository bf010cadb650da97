"""What the tests of C++ drivers call in Python workers, by name."""

from __future__ import annotations

import sheaf


def add(a, b):
    return a + b


def describe(*values):
    """Type names, so that the other side sees what arrived."""
    return [type(value).__name__ for value in values]


def same(value):
    return value


def count_words(text: str) -> dict:
    counts: dict[str, int] = {}
    for word in text.split():
        counts[word] = counts.get(word, 0) + 1
    return counts


def record():
    return {
        "name": "sheaf",
        "none": None,
        "yes": True,
        "big": 2**63,
        "numbers": [1, -2, 3.5],
        "raw": b"\x00\xff",
        "nested": {"deep": [{"er": (1, "two")}]},
        5: "five",
    }


def large(n):
    return list(range(n))


def numbers_sum(values):
    return sum(values)


class OddError(Exception):
    pass


def fail(text):
    raise OddError(text)


def unplain():
    return object()


def get_inside(refs):
    return sum(sheaf.get(refs))


@sheaf.remote
def decorated(x):
    return x * 10


class Outer:
    @staticmethod
    def inner(x):
        return x + 1


class Account:
    def __init__(self, owner, balance=0):
        if balance < 0:
            raise ValueError("a negative balance")
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        if amount < 0:
            raise ValueError(f"{self.owner} cannot deposit {amount}")
        self.balance += amount
        return self.balance

    def state(self):
        return {"owner": self.owner, "balance": self.balance}


@sheaf.remote
class AsyncAccount:
    async def double(self, x):
        return 2 * x
