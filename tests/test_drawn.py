"""What the benchmark of generation makes of the times of files."""

import pytest

from benchmarks.drawn import lots


def test_files_that_come_one_by_one_are_a_lot_each():
    assert lots([10, 11, 12, 13.25, 14]) == pytest.approx([1, 1, 0.8])


def test_batches_between_the_first_and_the_last_are_counted():
    at = [20.0] * 16 + [30.0, 30.1] * 16 + [40.0, 40.1] * 16 + [50.1] * 48
    assert lots(sorted(at)) == pytest.approx([32 / 10.1, 32 / 10])


def test_a_batch_whose_files_come_in_two_pieces_is_one_lot():
    begun = [3.5 * batch for batch in range(5)]
    at = sorted([*begun, *(second + 0.08 for second in begun)] * 16)
    assert lots(at) == pytest.approx([32 / 3.5] * 3)


def test_files_of_one_batch_are_written_and_not_drawn_one_by_one():
    assert lots([20 + 0.001 * place for place in range(16)]) == []


def test_two_batches_are_too_few_to_tell_a_rate():
    assert lots([20.0] * 16 + [30.0] * 32) == lots([20.0]) == []
