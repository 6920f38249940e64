"""Several writers fed from one stream of strips."""

import pytest

from wsistain.phantom.together import Together


def test_every_writer_gets_every_strip_in_order_and_none_runs_ahead():
    made, taken = [], {"a": [], "b": []}

    def strips():
        for k in range(20):
            assert (
                k - min(len(t) for t in taken.values()) <= 1
            )  # what the slower one has not taken is one strip at most
            made.append(k)
            yield {"a": k, "b": -k}

    together = Together(taken, strips())

    def writer(name):
        def write():
            for _ in range(20):
                taken[name].append(together.take(name))

        return write

    together.run({name: writer(name) for name in taken})
    assert taken == {"a": list(range(20)), "b": [-k for k in range(20)]} and made == list(range(20))


def test_the_first_failure_ends_all_writers_and_comes_up():
    together = Together(("a", "b"), iter([{"a": 1, "b": 1}] * 5))

    def fails():
        together.take("a")
        raise OSError("full")

    def waits():
        while True:
            together.take("b")

    with pytest.raises(OSError, match="full"):
        together.run({"a": fails, "b": waits})
