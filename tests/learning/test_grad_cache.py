"""The cached step must give the gradient of the plain step: with dropout, with loss scaling, on two processes."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from gengeo_hf.learning import cached_backward, gather_rows, symmetric_info_nce
from gengeo_hf.learning import grad_cache as module


class Toy(torch.nn.Module):
    def __init__(self, dropout=0.5):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(6, 32), torch.nn.Dropout(dropout), torch.nn.ReLU(), torch.nn.Linear(32, 4)
        )
        self.scale = torch.nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return torch.nn.functional.normalize(self.layers(x), dim=1)


def images():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(12, 6, generator=generator), torch.randn(12, 6, generator=generator)


def parts_of(ground, aerial, size):
    return [(ground[i : i + size], aerial[i : i + size]) for i in range(0, len(ground), size)]


def gradients(model):
    return [p.grad.clone() for p in model.parameters()]


def plain(model, parts, scale=1.0):
    """One large batch, whose activations are all kept; dropout is drawn part by part as in the cached step."""
    described = [(model(g), model(a)) for g, a in parts]
    ground, aerial = (torch.cat(views) for views in zip(*described, strict=True))
    loss = symmetric_info_nce(ground, aerial, model.scale, label_smoothing=0.1)
    (loss * scale).backward()
    return loss.item()


def cached(model, parts, scale=1.0):
    return cached_backward(
        parts,
        lambda part: (model(part[0]), model(part[1])),
        lambda g, a: symmetric_info_nce(g, a, model.scale, label_smoothing=0.1),
        backward=lambda loss: (loss * scale).backward(),
        loss_parameters=[model.scale],
    ).item()


@pytest.mark.parametrize("size", [1, 4, 5, 12])
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_equals_the_plain_step_with_dropout(size, scale):
    one, other = Toy(), Toy()
    parts = parts_of(*images(), size)
    torch.manual_seed(7)
    expected_loss = plain(one, parts, scale)
    torch.manual_seed(7)
    assert cached(other, parts, scale) == pytest.approx(expected_loss, abs=1e-6)
    for expected, found in zip(gradients(one), gradients(other), strict=True):
        torch.testing.assert_close(found / scale, expected / scale, atol=1e-5, rtol=0)


def test_chance_goes_on_as_after_one_pass():
    model = Toy()
    torch.manual_seed(7)
    plain(model, parts_of(*images(), 4))
    expected = torch.rand(3)
    torch.manual_seed(7)
    cached(model, parts_of(*images(), 4))
    torch.testing.assert_close(torch.rand(3), expected)


def test_without_the_repeated_chance_the_gradient_is_wrong(monkeypatch):
    """The control: had the equality above held by accident, it would hold here too."""
    one, other = Toy(), Toy()
    parts = parts_of(*images(), 4)
    torch.manual_seed(7)
    plain(one, parts)
    monkeypatch.setattr(module._Chance, "restore", lambda self: None)
    torch.manual_seed(7)
    cached(other, parts)
    gap = max((a - b).abs().max().item() for a, b in zip(gradients(one), gradients(other), strict=True))
    assert gap > 1e-3


def test_summing_small_losses_is_not_the_same():
    one, other = Toy(dropout=0.0), Toy(dropout=0.0)
    parts = parts_of(*images(), 4)
    plain(one, parts)
    for ground, aerial in parts:
        (symmetric_info_nce(other(ground), other(aerial), other.scale, label_smoothing=0.1) / len(parts)).backward()
    gap = max((a - b).abs().max().item() for a, b in zip(gradients(one), gradients(other), strict=True))
    assert gap > 1e-3


def worker(rank, results):
    model = Toy(dropout=0.0)
    wrapped = DistributedDataParallel(model)
    ground, aerial = images()
    rows = slice(6 * rank, 6 * rank + 6)
    loss = cached_backward(
        parts_of(ground[rows], aerial[rows], 2),
        lambda part: (wrapped(part[0]), wrapped(part[1])),
        lambda g, a: symmetric_info_nce(gather_rows(g), gather_rows(a), model.scale, label_smoothing=0.1),
        no_sync=wrapped.no_sync,
        loss_parameters=[model.scale],
    )
    torch.save([loss.item(), gradients(model)], f"{results}-{rank}")


def both_workers(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    worker(rank, folder / "plain")
    dropout_worker(rank, folder / "dropout")
    dist.barrier()  # a rank that leaves early must not take the connection from the other
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    """Started once: most of the time is PyTorch's import."""
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(both_workers, args=(folder,), nprocs=2)
    return folder


def test_two_processes_equal_one(two_processes):
    alone = Toy(dropout=0.0)
    expected_loss = plain(alone, parts_of(*images(), 12))
    for rank in range(2):
        loss, found = torch.load(f"{two_processes}/plain-{rank}", weights_only=True)
        assert loss == pytest.approx(expected_loss, abs=1e-6)
        for ours, expected in zip(found, gradients(alone), strict=True):
            torch.testing.assert_close(ours, expected, atol=1e-6, rtol=0)


def dropout_worker(rank, results):
    """Under two processes, with dropout and a loss scale: the cached step beside a plain one with the same chance."""
    ground, aerial = images()
    rows = slice(6 * rank, 6 * rank + 6)
    parts, found = parts_of(ground[rows], aerial[rows], 2), []
    for cache in (False, True, None):
        model = Toy(dropout=0.5)
        wrapped = DistributedDataParallel(model)
        torch.manual_seed(7 + rank)

        def loss_of(g, a, scale=model.scale):
            return symmetric_info_nce(gather_rows(g), gather_rows(a), scale, label_smoothing=0.1)

        if cache is None:  # the control: other units are dropped
            torch.manual_seed(99 + rank)
        if cache:
            cached_backward(
                parts,
                lambda part, net=wrapped: (net(part[0]), net(part[1])),
                loss_of,
                backward=lambda loss: (loss * 1024).backward(),
                no_sync=wrapped.no_sync,
                loss_parameters=[model.scale],
            )
        else:
            described = [(wrapped(g), wrapped(a)) for g, a in parts]
            (loss_of(*(torch.cat(views) for views in zip(*described, strict=True))) * 1024).backward()
        found.append([gradient / 1024 for gradient in gradients(model)])
    torch.save(found, f"{results}-{rank}")


def test_two_processes_with_dropout_and_a_loss_scale(two_processes):
    for rank in range(2):
        expected, cached, control = torch.load(f"{two_processes}/dropout-{rank}", weights_only=True)
        for one, other in zip(expected, cached, strict=True):
            torch.testing.assert_close(other, one, atol=1e-5, rtol=0)
        assert max((a - b).abs().max().item() for a, b in zip(expected, control, strict=True)) > 1e-3


def test_no_parts_are_refused():
    with pytest.raises(ValueError, match="at least one micro-batch"):
        cached_backward([], lambda part: (), lambda: torch.zeros(()))
