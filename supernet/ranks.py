"""The processes that work together at one training or search, as torchrun starts them; one alone is rank 0 of 1.

torchrun --nproc-per-node 2 -m hwnas -- train ...
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed

from ..errors import InputError, LostRankError, mark_told, unknown_name
from ..files import digest

T = TypeVar("T")
R = TypeVar("R")
CPU = torch.device("cpu")

ACCELERATORS = ("auto", "cpu", "cuda")
PATIENCE = timedelta(days=7)  # one rank may train a network while the others wait; torchrun notices one that died


@dataclass(frozen=True)
class Ranks:
    """This process among `world`, and the device that it computes on. Rank 0 writes files and speaks to the user.

    `board` is what all of them, and those that torchrun starts anew after one has died, can read and write.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = CPU
    board: distributed.Store | None = None

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> list[T]:
        """This rank's part of `items`: every `world`-th."""
        return list(items[self.rank :: self.world])

    def sum_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over the ranks, all in one message."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view(tensor.shape))

    def mean_(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its mean over the ranks."""
        self.sum_(tensors)
        for tensor in tensors if self.world > 1 else ():
            tensor /= self.world

    def gather(self, value: float) -> list[float]:
        """The values of all ranks, in their order."""
        values = torch.zeros(self.world, dtype=torch.float64)
        values[self.rank] = value
        self.sum_([values])
        return values.tolist()

    def gather_plain(self, value: T) -> list[T]:
        """The values of all ranks, in their order: plain values and arrays."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value)
        return values

    def broadcast(self, value: Any) -> Any:
        """What rank 0 says: plain values."""
        if self.world == 1:
            return value
        said = [value]
        distributed.broadcast_object_list(said)
        return said[0]

    def pin(self, note: str) -> None:
        """Leave a note for those that are started anew."""
        if self.board is not None:
            self.board.set(note, "1")

    def pinned(self, note: str) -> bool:
        """Whether an earlier attempt of this run left that note."""
        return self.board is not None and self.board.check([note])

    def wait(self) -> None:
        """Until all ranks are here."""
        self.gather(0.0)

    @contextmanager
    def first_alone(self) -> Iterator[None]:
        """Rank 0 goes in first, the others when it is out: for what is downloaded or written by whoever comes first."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


ALONE = Ranks()


@contextmanager
def joined(accelerator: str = "auto") -> Iterator[Ranks]:
    """This process as torchrun's environment describes it, connected to the others while inside.

    `accelerator` is cuda, cpu, or auto: a GPU where there is one, each rank its own.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    rank, world, local, beside = (int(os.environ.get(name, "1" if "SIZE" in name else "0")) for name in names)
    device = device_of(accelerator, local, beside)
    if world == 1 or "MASTER_ADDR" not in os.environ:
        yield Ranks(device=device)
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    board, attempt = meeting_place(rank, world), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    # torchrun keeps one store for all attempts, and torch reads there where the ranks of the last one were, which
    # nobody answers any more (seen with torch 2.14): so each attempt has a part of its own
    store = distributed.PrefixStore(f"attempt {attempt}", board)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=PATIENCE)
    try:
        yield Ranks(rank, world, device, board)
    except Exception as error:
        if isinstance(error, distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            raise LostRankError(
                "another process has ended, see what it said; what is finished is kept: --resume goes on, and torchrun "
                "--max-restarts does so by itself"
            ) from error
        with suppress(RuntimeError):  # whoever keeps the store has gone
            mark_told(error, told=store.add(f"said {digest(str(error))}", 1) > 1)
        raise
    distributed.destroy_process_group()  # not after an error: it would wait for ranks that wait for this one


def meeting_place(rank: int, world: int) -> distributed.Store:
    """Where the ranks find each other, and leave notes."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    hosts_it = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    return distributed.PrefixStore("hwnas", distributed.TCPStore(host, port, world, hosts_it, PATIENCE))


def device_of(accelerator: str, local_rank: int = 0, beside: int = 1) -> torch.device:
    """The device of one of the ranks `beside` each other on a machine; InputError where there are too few."""
    if accelerator not in ACCELERATORS:
        raise unknown_name("accelerator", accelerator, ACCELERATORS)
    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        return CPU
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count < beside:
        raise InputError(
            f"torch can use {count} GPUs here (see nvidia-smi), {beside} needed, one for each process: start fewer, or "
            "give --accelerator cpu"
        )
    return torch.device("cuda", local_rank)


def evaluate_all(ranks: Ranks, evaluate: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """On rank 0: the result of each item in order, evaluated by all ranks, as many at a time as there are.

    The other ranks are in `serve` meanwhile. Alone it is `map`.
    """
    for start in range(0, len(items), ranks.world):
        together = ranks.broadcast(list(items[start : start + ranks.world]))
        yield from ranks.gather_plain(evaluate(together[0]))[: len(together)]


def serve(ranks: Ranks, evaluate: Callable[[T], Any]) -> None:
    """On the other ranks: evaluate what rank 0 sends, until it sends nothing."""
    while together := ranks.broadcast(None):
        ranks.gather_plain(evaluate(together[ranks.rank]) if ranks.rank < len(together) else None)


def dismiss(ranks: Ranks) -> None:
    """On rank 0: the others may leave `serve`."""
    ranks.broadcast([])
