"""The shortest program: four tasks, their results."""

import sheaf


@sheaf.remote
def square(x):
    return x * x


print(sheaf.get([square.remote(i) for i in range(4)]))  # [0, 1, 4, 9]
