"""``python -m sheaf._fetch SESSION SPACE KEY FILE``: one value of the cluster's key-value store
into a file.
"""

from __future__ import annotations

import os
import sys


def main(session_dir: str, space: str, key: str, path: str) -> int:
    """Exit status 0 when the file is there, 1 with a sentence on stderr otherwise."""
    from . import _core

    _core.connect(os.path.join(session_dir, "sheafd.sock"), "tool")
    name = bytes.fromhex(key) if space == "fn" else key.encode()
    data = _core.kv_get(space, name, 5.0)
    if data is None:
        print(f"the cluster has no {space} {key}", file=sys.stderr)
        return 1
    partial = f"{path}.{os.getpid()}"
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    os.rename(partial, path)
    _core.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
