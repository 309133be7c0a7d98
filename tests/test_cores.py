"""A process counts the processors that it may run on, whatever the system tells of them."""

import os

import pytest

from detsd.cores import cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="of Linux")
def test_those_that_are_others_do_not_count():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert cores() == len(before)


@pytest.mark.parametrize(("told", "counted"), [(8, 8), (None, 1)])
def test_without_affinity_all_count(monkeypatch, told, counted):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: told)
    assert cores() == counted
