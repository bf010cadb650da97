"""Both directions between Python and C++.

As a module: what call_python.cc calls. As a program: calls the C++ library whose path it is given.
"""

import sys


def shorten(text: str, limit: int) -> dict:
    return {"text": text[:limit], "cut": len(text) > limit, "length": len(text)}


class Speller:
    def __init__(self, known):
        self.known = set(known)

    def unknown(self, words):
        if not words:
            raise ValueError("no words")
        return [word for word in words if word not in self.known]


def main(library: str) -> None:
    import sheaf

    sheaf.init(num_cpus=2)
    count_words = sheaf.cpp_function("text::count_words", library=library)
    counts = [count_words.remote(line) for line in ("a rose is a rose", "is a rose")]
    totals = sheaf.cpp_actor_class("text::Totals", library=library).remote()
    for part in counts:
        totals.add.remote(part)
    print(sheaf.get(counts[0]), sheaf.get(totals.of.remote("rose")))
    try:
        sheaf.get(totals.of.remote("thorn"))
    except sheaf.exceptions.CrossLanguageError as error:
        print("thorn" in str(error), "std::out_of_range" in str(error))
    sheaf.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
