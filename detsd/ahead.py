"""Things that are made ahead, in threads, while what was made before them is worked on."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from detsd.cores import cores

T = TypeVar("T")
MOST = 4  # at once: a photograph takes 40 MB, and twice that while it is turned


class Ahead(Sequence[T], Generic[T]):
    """What `make` makes of each place, in their order; a slice of it makes what it holds."""

    def __init__(self, make: Callable[[Any], T], places: Sequence[Any]):
        self._make = make
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return Ahead(self._make, self._places[place])
        return self._make(self._places[place])

    def __iter__(self) -> Iterator[T]:
        waiting: deque[Future[T]] = deque()
        with ThreadPoolExecutor(threads()) as pool:
            try:
                for place in self._places:
                    waiting.append(pool.submit(self._make, place))
                    if len(waiting) > threads():
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


def threads() -> int:
    """Return how many work at once."""
    return min(cores(), MOST)
