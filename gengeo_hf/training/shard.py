"""Weights, gradients and AdamW's moments cut into one piece for each process (FSDP2): for models too large for a card.

Before: a model on its device. After: the same model with DTensors for parameters; whole tensors for files, and back.
PyTorch's `fully_shard` is used as it is: Accelerate's wrapper around it refuses parameters without dimensions, such as
the temperature, and starts on GPUs only, so that nothing of it could be tested without.
"""

from collections.abc import Iterable, Mapping

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.model import GenGeoModel
from gengeo_hf.model.backbones import transformer_blocks
from gengeo_hf.training.settings import Settings


def check_shardable(settings: Settings, processes: int) -> None:
    """Refuse what does not go together with `optimisation.shard`.

    Raises:
        GenGeoError: with the setting to change.
    """
    plan = settings.optimisation
    if processes == 1:
        raise GenGeoError("optimisation.shard=true divides a model among processes, and there is one: leave it out")
    if plan.mixed_precision == "fp16" or plan.compile is not None:
        raise GenGeoError("optimisation.shard=true goes with mixed_precision=bf16 or no, and without compile")


def shard(model: GenGeoModel, accelerator: Accelerator) -> None:
    """Divide the model in place: each block is gathered when it runs, and given up afterwards.

    Parameters without dimensions (temperature, dustbin, GeM's exponent) stay whole on every process.
    """
    for tensor in model.state_dict().values():  # as DistributedDataParallel does: random starts differ by process
        dist.broadcast(tensor, 0)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in transformer_blocks(model.backbone):
        fully_shard(block, mesh=mesh)
    # The outermost part is given up too: kept after an evaluation, it would hide the weights that are copied in.
    fully_shard(model, mesh=mesh, ignored_params=set(_undivided(model)), reshard_after_forward=True)


def _undivided(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.ndim == 0]


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether all processes must run the model together, an equal number of times."""
    return any(isinstance(parameter, DTensor) for parameter in model.parameters())


def finish_gradients(model: torch.nn.Module, accelerator: Accelerator) -> None:
    """The mean over processes for the parameters that stay whole; the others have theirs from `fully_shard`."""
    for parameter in _undivided(model) if is_sharded(model) else ():
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= accelerator.num_processes


def clip_gradients(model: torch.nn.Module, accelerator: Accelerator, largest: float) -> None:
    """Scale all gradients so that their norm is at most `largest`."""
    if not is_sharded(model):
        accelerator.clip_grad_norm_(model.parameters(), largest)
        return
    parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
    norms = [whole(torch.linalg.vector_norm(parameter.grad)) for parameter in parameters]
    total = torch.linalg.vector_norm(torch.stack(norms))
    for parameter in parameters:  # one by one: the fused form takes no mixture of whole and divided tensors
        torch.nn.utils.clip_grads_with_norm_([parameter], largest, total)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor of a divided one; all processes must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def whole_tensors(tensors: Mapping[str, torch.Tensor], keep: bool) -> dict[str, torch.Tensor]:
    """Whole tensors for a file, one by one in the main memory; all processes must ask, and those that write keep them.

    Tensors that are not divided are given as they are.
    """
    out = {}
    for name, tensor in tensors.items():
        value = whole(tensor).cpu() if isinstance(tensor, DTensor) else tensor
        if keep:
            out[name] = value.contiguous()
    return out


@torch.no_grad()
def put(target: torch.Tensor, value: torch.Tensor) -> None:
    """Copy a whole tensor into one that may be divided."""
    if isinstance(target, DTensor):
        value = distribute_tensor(value.to(target.device, target.dtype), target.device_mesh, target.placements)
    target.copy_(value)


def put_all(targets: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor], names: Iterable[str]) -> None:
    """`put` for several names."""
    for name in names:
        put(targets[name], values[name])
