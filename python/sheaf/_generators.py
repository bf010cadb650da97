"""What a task with ``num_returns="dynamic"`` gives: one reference whose value is a list of
references.
"""

from __future__ import annotations


class DynamicObjectRefGenerator:
    """The references to the values that a finished generator task yielded, in order."""

    def __init__(self, refs):
        self._refs = list(refs)

    def __iter__(self):
        return iter(self._refs)

    def __next__(self):
        if not self._refs:
            raise StopIteration
        return self._refs.pop(0)

    def __len__(self):
        return len(self._refs)

    def __reduce__(self):
        return DynamicObjectRefGenerator, (self._refs,)
