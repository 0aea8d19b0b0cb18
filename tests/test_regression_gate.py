"""Regression gate: a short training with a fixed seed on the synthetic world passes, and fails if a part is broken.

The model overfits 60 places, which takes a quarter of a minute on one core; a training that generalises takes several
minutes. With a broken part the program still runs, the loss is finite and a model is written, but the gate must fail.
Six seeds of the correct code reached recall@1 1.0 and losses of 0.614 to 0.619. A head whose transport ignores the
scores also reaches recall@1 1.0, but a loss of only 0.706, so the gate tests both.
"""

import json
from pathlib import Path

import pytest

from gengeo_hf.data.loading import AerialImages, GroundImages
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.evaluation import evaluate_descriptors

pytestmark = pytest.mark.slow
MIN_RECALL = 0.98  # recall@1 among the 60 places: one may be missed; a random ranking has 1.7 %
MAX_LOSS = 0.65  # equal scores give ln 20 = 3.0; label smoothing keeps the loss above 0.5

CONFIG = """
output: {output}
data:
  name: world-urban
  train: {{num_pairs: 60}}
  validation: {{num_pairs: 20}}
  workers: 0
  in_memory: true
  ground_size: [42, 168]
  aerial_size: [70, 70]
model:
  config:
    backbone_config: {{model_type: dinov2, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, mlp_ratio: 2,
                       image_size: 70, patch_size: 14}}
    position_init_std: 0.5
    num_clusters: 8
    cluster_dim: 32
    token_dim: 64
    head_hidden_dim: 128
    head_dropout: 0.0
    descriptor_dim: 128
    trainable_blocks: null
sampling: {{batch_size: 20, random_share: 0.5, gps_epochs: 2, mining_every: 15, neighbours: 5, pool: 10}}
optimisation: {{epochs: 60, learning_rate: 0.003, weight_decay: 0.05, warmup: 0.08, label_smoothing: 0.1}}
evaluate_every: 60
save_every: 1000
log_every: 3
"""


def train_and_evaluate(folder: Path, *overrides: str) -> dict[str, float]:
    """Train on the 60 places; returns recall@1 and recall@5 among them and the mean loss of the last ten epochs."""
    from gengeo_hf.training import loop as train
    from gengeo_hf.training.settings import load_settings

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gate.yaml").write_text(CONFIG.format(output=folder / "run"))
    settings = load_settings(folder / "gate.yaml", list(overrides))
    train.main(settings)
    pairs = train.load_pairs(settings.data.name, settings.data.root, split="train", **settings.data.train)
    encoder = Encoder.from_pretrained(folder / "run" / "model", device="cpu")
    ground, aerial = encoder.encode(GroundImages(pairs), "ground"), encoder.encode(AerialImages(pairs), "aerial")
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line][-10:]
    recall = evaluate_descriptors(ground, aerial, pairs.positive_rows())
    return {"recall@1": recall["recall@1"], "recall@5": recall["recall@5"], "loss": sum(losses) / len(losses)}


def average_over_batch_in_head(patch):
    """Wrong axis: the head averages descriptors over the images of the batch."""
    from gengeo_hf.model import salad

    plain = salad.GenGeoSalad.forward

    def forward(self, *given):
        descriptor, plan = plain(self, *given)
        return descriptor.mean(dim=0, keepdim=True).expand_as(descriptor), plan

    patch.setattr(salad.GenGeoSalad, "forward", forward)


def detach_head(patch):
    """The head passes no gradient, so the layers before it keep their initial weights."""
    from gengeo_hf.model import salad

    plain = salad.GenGeoSalad.forward

    def forward(self, *given):
        descriptor, plan = plain(self, *given)
        return descriptor.detach(), plan

    patch.setattr(salad.GenGeoSalad, "forward", forward)


def repeat_first_batch(patch):
    """The sampler returns the first batch of an epoch in every step."""
    from gengeo_hf.learning import HardNegativeBatchSampler

    plain = HardNegativeBatchSampler.__iter__

    def repeat(self):
        batches = list(plain(self))
        yield from [batches[0]] * len(batches)

    patch.setattr(HardNegativeBatchSampler, "__iter__", repeat)
    patch.setattr(HardNegativeBatchSampler, "set_epoch", lambda self, epoch: None)


def shift_positives_in_loss(patch):
    """The loss takes the tile of another pair in the batch as the positive of each photo."""
    from gengeo_hf.training import objective

    plain = objective.symmetric_info_nce
    patch.setattr(
        objective,
        "symmetric_info_nce",
        lambda ground, aerial, *given, **named: plain(ground, aerial.roll(1, 0), *given, **named),
    )


def ignore_scale_in_loss(patch):
    """The loss ignores the scale: cosines enter the softmax without the temperature."""
    from gengeo_hf.training import objective

    plain = objective.symmetric_info_nce
    patch.setattr(
        objective,
        "symmetric_info_nce",
        lambda ground, aerial, scale, **named: plain(ground, aerial, 0 * scale, **named),
    )


def ignore_scores_in_transport(patch):
    """The transport ignores the scores, so all clusters have the same mean."""
    from gengeo_hf.model import salad

    plain = salad.GenGeoSalad.assign
    patch.setattr(salad.GenGeoSalad, "assign", lambda self, scores, token: plain(self, 0 * scores, token))


BROKEN_PARTS = [
    average_over_batch_in_head,
    detach_head,
    repeat_first_batch,
    shift_positives_in_loss,
    ignore_scale_in_loss,
    ignore_scores_in_transport,
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Directory in which the images are rendered once for all trainings."""
    return tmp_path_factory.mktemp("world")


def passes_gate(metrics):
    return metrics["recall@1"] >= MIN_RECALL and metrics["loss"] <= MAX_LOSS


@pytest.mark.parametrize("seed", [0, 1])
def test_gate_of_correct_code_passes(world, tmp_path, seed):
    metrics = train_and_evaluate(tmp_path, f"data.root={world}", f"seed={seed}")
    assert passes_gate(metrics), metrics


@pytest.mark.parametrize("break_part", BROKEN_PARTS, ids=lambda function: function.__name__)
def test_gate_with_a_broken_part_fails(world, tmp_path, monkeypatch, break_part):
    break_part(monkeypatch)
    metrics = train_and_evaluate(tmp_path, f"data.root={world}")
    assert not passes_gate(metrics), metrics
