"""What is made ahead comes in its order, and no more of it than is asked for."""

import threading

import pytest

from detsd import ahead
from detsd.ahead import Ahead


def test_it_comes_in_order_as_a_sequence_and_in_slices():
    squares = Ahead(lambda number: number**2, range(20))
    assert list(squares) == [number**2 for number in range(20)]
    assert len(squares) == 20 and squares[3] == 9 and squares[-1] == 361
    assert list(squares[1::7]) == [1, 64, 225]
    assert list(reversed(squares[:3])) == [4, 1, 0]
    assert list(Ahead(str, [])) == []


def test_of_a_slice_only_what_it_holds_is_made():
    made: list[int] = []
    assert list(Ahead(lambda number: made.append(number), range(10))[1::3]) == [None] * 3
    assert sorted(made) == [1, 4, 7]


def test_it_is_made_while_others_are_worked_on_and_not_far_ahead(monkeypatch):
    monkeypatch.setattr(ahead, "threads", lambda: 2)
    made = [threading.Event() for _ in range(10)]
    for place, _ in enumerate(Ahead(lambda place: made[place].set(), range(10))):
        for next_one in made[place + 1 : place + 3]:
            assert next_one.wait(30)  # by another thread, while this one works
        assert not any(one.is_set() for one in made[place + 3 :])


def test_an_error_comes_in_its_place_and_ends_it(monkeypatch):
    monkeypatch.setattr(ahead, "threads", lambda: 2)
    made, before = [], set(threading.enumerate())

    def make(place: int) -> int:
        made.append(place)
        return 1 // (3 - place)

    found = []
    with pytest.raises(ZeroDivisionError):
        for one in Ahead(make, range(100)):
            found.append(one)
    assert len(found) == 3
    assert len(made) < 10
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
        assert not thread.is_alive()
