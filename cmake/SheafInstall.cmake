# What `pip install .` and `cmake --install` lay down. Filled by the folders that own the pieces.
