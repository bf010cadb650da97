"""The store when it is full of pinned data."""

import numpy as np
import pytest
import sheaf


def test_a_store_full_of_pinned_data_says_who_pins(fresh):
    fresh(num_cpus=1, object_store_memory=80 << 20, _system_config={"store.full_wait": "1s"})
    held = []
    with pytest.raises(sheaf.exceptions.ObjectStoreFullError, match="pin"):
        for _ in range(20):
            held.append(sheaf.get(sheaf.put(np.zeros(2_000_000))))
    assert len(held) >= 3
    held.clear()
    assert sheaf.get(sheaf.put(np.ones(2_000_000)))[0] == 1.0


def test_an_object_larger_than_the_store(fresh):
    fresh(num_cpus=1, object_store_memory=80 << 20, _system_config={"store.full_wait": "1s"})
    with pytest.raises(sheaf.exceptions.ObjectStoreFullError):
        sheaf.put(np.zeros(20_000_000))
    assert sheaf.get(sheaf.put(1)) == 1


def test_a_full_spill_disk(fresh, tmp_path):
    fresh(
        num_cpus=1,
        object_store_memory=80 << 20,
        _system_config={
            "store.full_wait": "1s",
            "store.spill_max": "20MiB",
            "store.spill_dir": str(tmp_path),
        },
    )
    refs = []
    with pytest.raises((sheaf.exceptions.ObjectStoreFullError, sheaf.exceptions.OutOfDiskError)):
        for _ in range(20):
            refs.append(sheaf.put(np.zeros(2_000_000)))
    assert sheaf.get(refs[-1])[0] == 0.0
