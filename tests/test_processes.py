"""Which of the processes this one is, on which device, and what they say to each other."""

import multiprocessing
import os

import pytest
import torch
from torch import distributed

from detsd.processes import open_processes
from detsd.trial import Trial


@pytest.mark.parametrize(("rank", "local_rank"), [(1, 0), (3, 1)])
def test_a_device_is_counted_from_0_on_each_machine(rank, local_rank, monkeypatch):
    for name, value in {"RANK": rank, "LOCAL_RANK": local_rank, "WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    device, chosen = torch.device("cuda", local_rank), []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(distributed, "init_process_group", lambda *_, **__: None)
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: None)
    with open_processes() as processes:
        assert (processes.rank, processes.device, chosen) == (rank, device, [device])


@pytest.mark.parametrize("stopping", [None, 0, 1])
def test_who_wishes_to_stop_is_heard_with_the_gradients(tmp_path, stopping):
    exchanges = []

    def process(rank, exchange=distributed.all_reduce):
        os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
        distributed.all_reduce = lambda tensor: (exchanges.append(1), exchange(tensor))
        with open_processes(f"file://{tmp_path}/meeting") as processes:
            trial = Trial(processes, {}, 2, None, tmp_path, tmp_path)
            trial.wishes_to_stop = lambda: rank == stopping
            heeded = []
            trial.heed = lambda: heeded.append(1)
            for _ in range(2):  # steps of two buckets of gradients
                sums = [trial.total_of_step(torch.tensor([1.0, rank])) for _ in range(2)]
                stop = trial.should_stop_after_step()
        assert [total.tolist() for total in sums] == [[2.0, 1.0]] * 2
        assert stop == bool(heeded) == (stopping is not None)
        assert len(exchanges) == 4

    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=process, args=(rank,), daemon=True) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0, 0]


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="Linux alone has it")
def test_the_peak_of_memory_is_that_of_the_trial_and_not_of_one_before(tmp_path):
    with open_processes() as processes:
        torch.ones(50_000_000).sum()  # 200 MB, freed at once
        large = processes.peak_memory()
    with open_processes() as processes:
        assert processes.peak_memory() < large - 100_000_000
        rows = torch.ones(50_000_000)
        assert processes.peak_memory() > large - 50_000_000
        del rows
