"""Two processes have the loss and the gradients of one process with the whole batch."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from gengeo_hf.learning import gather_rows, symmetric_info_nce


class Toy(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(6, 4)
        self.scale = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return torch.nn.functional.normalize(self.linear(x), dim=1), self.scale


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 6, generator=generator), torch.randn(8, 6, generator=generator)


def step(model, ground, aerial):
    (g, scale), (a, _) = model(ground), model(aerial)
    loss = symmetric_info_nce(gather_rows(g), gather_rows(a), scale, label_smoothing=0.1)
    loss.backward()
    return loss.item()


def worker(rank, address, results):
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    model = DistributedDataParallel(Toy())
    ground, aerial = batch()
    rows = slice(4 * rank, 4 * rank + 4)
    loss = step(model, ground[rows], aerial[rows])
    if rank == 0:
        torch.save([loss, [p.grad for p in model.module.parameters()]], results)
    dist.destroy_process_group()


def test_gather_rows_two_processes_equal_one(tmp_path):
    results = tmp_path / "gradients.pt"
    mp.spawn(worker, args=(f"file://{tmp_path}/rendezvous", results), nprocs=2)
    loss, gradients = torch.load(results, weights_only=True)
    alone = Toy()
    assert loss == pytest.approx(step(alone, *batch()), abs=1e-6)
    for found, parameter in zip(gradients, alone.parameters(), strict=True):
        torch.testing.assert_close(found, parameter.grad, atol=1e-6, rtol=0)


def test_gather_rows_one_process_returns_input():
    rows = torch.ones(2, 3)
    assert gather_rows(rows) is rows
