"""Which of the processes this one is, and on which device."""

import pytest
import torch
from torch import distributed

from detsd.processes import open_processes


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
