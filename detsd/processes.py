"""The processes of a run: which one this is, and what they do together."""

import os
import resource
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import psutil
import torch
from torch import distributed

T = TypeVar("T")
Item = TypeVar("Item")
# A chief that uploads a checkpoint over a slow line keeps the others waiting that long at most.
PATIENCE = timedelta(hours=1)


class Flag:
    """A number on its way from a device."""

    def __init__(self, value: torch.Tensor):
        self._value, self._arrived = value, None
        if value.device.type == "cuda":
            self._value = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
            self._value.copy_(value, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> bool:
        """Return whether it is set, as soon as it is there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return bool(self._value)


class Processes:
    """This process among its equals; alone, everything that they do together is done already."""

    def __init__(self, rank: int, size: int, device: torch.device):
        self.rank = rank
        self.size = size
        self.device = device

    @property
    def is_chief(self) -> bool:
        """Whether this is the one that writes."""
        return self.rank == 0

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor's sum over the processes."""
        if self.size > 1:
            distributed.all_reduce(tensor)
        return tensor

    def total_and_flag(self, tensor: torch.Tensor, flag: bool) -> tuple[torch.Tensor, "Flag"]:
        """Return the tensor's sum, and whether the flag is set in any process: one exchange."""
        # Filled there: a number from here would be waited for.
        both = torch.cat([tensor, tensor.new_full((1,), float(flag))])
        distributed.all_reduce(both)
        return both[:-1], Flag(both[-1:].clone())

    def peak_memory(self) -> int:
        """Return the bytes that this process has held at once on its device, at most."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        # Of everything in it: kilobytes, but bytes on a Mac.
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process: the same answer in all of them."""
        return bool(self.total(torch.tensor(int(flag))))

    def wait(self) -> None:
        """Go on when every process has come this far."""
        self.any(False)

    def ask(self, question: Callable[[], T]) -> T:
        """Return the chief's answer, in every process."""
        return self.deal(lambda _: question(), range(1))[0]

    def gather(self, mine: T) -> list[T]:
        """Return what every process has to the chief, and nothing to the others."""
        if self.size == 1:
            return [mine]
        hands: list[T] | None = [mine] * self.size if self.is_chief else None
        distributed.gather_object(mine, hands)
        return hands or []

    def deal(self, work: Callable[[Item], T], items: Sequence[Item]) -> list[T]:
        """Map `work` over the items, each done by one process; every process gets all results."""
        mine = [work(item) for item in items[self.rank :: self.size]]
        if self.size == 1:
            return mine
        hands: list[list[T]] = [[] for _ in range(self.size)]
        distributed.all_gather_object(hands, mine)
        return [hands[place % self.size][place // self.size] for place in range(len(items))]


@contextmanager
def open_processes(rendezvous: str = "env://") -> Iterator[Processes]:
    """Join the processes that a launcher (torchrun's variables) has started beside this one."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    on_gpu = torch.cuda.is_available()
    local_rank = int(os.environ.get("LOCAL_RANK", 0))  # not the rank: a second node starts at 0
    device = torch.device("cuda", local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    _forget_earlier(device)
    on_several_machines = size > int(os.environ.get("LOCAL_WORLD_SIZE", size))
    # Gloo would take the host's name for its address: on Debian that is the loopback's.
    if on_several_machines and (interface := _interface_to(os.environ["MASTER_ADDR"])):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
    if size > 1:
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
            init_method=rendezvous,
            rank=rank,
            world_size=size,
            timeout=PATIENCE,
        )
    try:
        yield Processes(rank, size, device)
    finally:
        if size > 1:
            distributed.destroy_process_group()


def _forget_earlier(device: torch.device) -> None:
    """Have and measure memory anew: what an earlier trial in this process took is none of this."""
    if torch.cuda.is_initialized():  # or there is no peak yet
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):  # Linux alone has it; elsewhere it is the largest of all trials so far
        Path("/proc/self/clear_refs").write_text("5")


def _interface_to(machine: str) -> str | None:
    """Return the network interface by which this machine reaches another, or itself."""
    family, kind, *_, address = socket.getaddrinfo(machine, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(address)  # nothing is sent
        own = probe.getsockname()[0]
    if own.startswith("127."):  # its own name, which says nothing of where the others are
        return None
    interfaces = psutil.net_if_addrs().items()
    return next((name for name, ends in interfaces if own in (end.address for end in ends)), None)
