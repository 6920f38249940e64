"""Work ahead of its taker: in order, bounded, with its exceptions, and with an end."""

import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from wsistain.runtime.ahead import in_order, thread_pool


class Counted:
    """A function that records what it was called with; holds every call back until `let` is set."""

    def __init__(self, *, held: bool = False) -> None:
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.let = threading.Event()
        if not held:
            self.let.set()

    def __call__(self, item: int) -> int:
        self.begun.append(item)
        assert self.let.wait(20)
        self.ended.append(item)
        return -item


@pytest.fixture(params=[1, 3])
def pool(request: pytest.FixtureRequest) -> Iterator[Executor]:
    with thread_pool(request.param, "test") as pool:
        yield pool


@pytest.mark.parametrize("depth", [1, 2, 5, 50])
def test_results_come_in_the_order_of_the_items(pool: Executor, depth: int):
    assert list(in_order(pool, Counted(), range(20), depth)) == [-k for k in range(20)]
    assert list(in_order(pool, Counted(), [], depth)) == []


def test_the_last_call_may_end_first():
    first = threading.Event()

    def call(item: int) -> int:
        if item == 0:
            assert first.wait(20)
        else:
            first.set()
        return item

    with thread_pool(2, "test") as pool:
        assert list(in_order(pool, call, range(3), 2)) == [0, 1, 2]


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_no_more_is_begun_than_the_depth_allows(pool: Executor, depth: int):
    asked = []

    def items() -> Iterator[int]:
        for k in range(12):
            asked.append(k)
            yield k

    for taken, _ in enumerate(in_order(pool, Counted(), items(), depth), start=1):
        assert len(asked) <= taken + depth - 1


def test_an_exception_comes_up_in_its_place(pool: Executor):
    def call(item: int) -> int:
        if item == 2:
            raise KeyError("the third")
        return item

    results = in_order(pool, call, range(9), 4)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(KeyError, match="the third"):
        next(results)
    assert list(results) == []


def test_items_that_cannot_be_had_are_told_after_the_results_before_them_are_dropped(pool: Executor):
    def items() -> Iterator[int]:
        yield 0
        raise OSError("the list ends here")

    with pytest.raises(OSError, match="the list ends"):
        list(in_order(pool, Counted(), items(), 3))


def test_closed_half_way_nothing_of_it_runs_on():
    call = Counted(held=True)
    with ThreadPoolExecutor(2) as pool:
        results = in_order(pool, call, range(50), 10)
        threading.Timer(0.05, call.let.set).start()
        assert next(results) == 0
        results.close()  # type: ignore[attr-defined]
        assert sorted(call.begun) == sorted(call.ended)
        n_begun = len(call.begun)
        assert n_begun < 11
        assert pool.submit(len, ()).result() == 0  # the pool, which is its owner's, still works
        assert len(call.begun) == n_begun


@pytest.mark.parametrize("ends", ["used up", "an exception", "closed"])
def test_no_thread_outlives_its_pool(ends: str):
    before = threading.active_count()
    try:
        with thread_pool(3, "test") as pool:
            for result in in_order(pool, Counted(), range(30), 6):
                if ends == "closed":
                    break
                if ends == "an exception":
                    raise KeyError(result)
    except KeyError:
        assert ends == "an exception"
    assert threading.active_count() == before


def test_one_thread_is_the_callers_own():
    with thread_pool(1, "test") as pool:
        names = list(in_order(pool, lambda _: threading.current_thread().name, range(3), 2))
        assert set(names) == {threading.current_thread().name}
        assert list(pool.map(abs, [-1, -2])) == [1, 2]


def test_a_depth_or_pool_of_nothing_is_refused():
    with pytest.raises(ValueError, match="depth 0"), ThreadPoolExecutor(1) as pool:
        next(in_order(pool, abs, [1], 0))
    with pytest.raises(ValueError, match="threads 0"), thread_pool(0, "test"):
        pass
