"""Throughput: peaks of cards, and readings with a clock whose times are set by the test."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from gengeo_hf.model import GenGeoModel
from gengeo_hf.training import throughput
from gengeo_hf.training.components import build_processor
from gengeo_hf.training.throughput import Meter, card_of, peak_flops, training_flops
from tests.training.settings_with import settings_with

# Dense bfloat16 tera-operations per second of NVIDIA's data sheets (float16 for V100 and 2080 Ti).
SHEET = {
    "NVIDIA H200": 989,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H100 80GB HBM3": 989,
    "NVIDIA A100-SXM4-40GB": 312,
    "NVIDIA L40S": 362,
    "NVIDIA L4": 121,
    "NVIDIA A10G": 70,
    "Tesla V100-SXM2-16GB": 125,
    "NVIDIA GeForce RTX 4090": 165,
    "NVIDIA GeForce RTX 3090": 71,
    "NVIDIA GeForce RTX 2080 Ti": 54,
}


def set_clock(monkeypatch, name, times):
    """Replace a clock by one that returns these times and then ends."""
    readings = iter(times)
    monkeypatch.setattr(throughput, "time", SimpleNamespace(**{name: lambda: next(readings)}))


@pytest.mark.parametrize(("name", "tera"), SHEET.items())
def test_peak_flops_of_known_card_is_that_of_its_data_sheet(monkeypatch, name, tera):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    peak, source = peak_flops(torch.device("cuda"))
    assert peak == tera * 10**12
    assert source.endswith(" bf16, data sheet") and source.split(" bf16")[0] in name


def test_peak_flops_of_cpu_is_that_of_its_fastest_product(monkeypatch):
    """Five products, of which the third is the fastest: 3 s of processor time on all cores together."""
    set_clock(monkeypatch, "process_time", [10, 18, 20, 27, 30, 33, 40, 46, 50, 55])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    peak, source = peak_flops(torch.device("cpu"))
    assert peak == pytest.approx(2 * 1024**3 / (3 / 4))
    assert source == "product of two 1024 x 1024 matrices, measured"


def test_peak_flops_of_other_device_is_measured_with_bfloat16(monkeypatch):
    set_clock(monkeypatch, "perf_counter", [0, 8, 20, 27, 30, 32, 40, 46, 50, 55])
    peak, source = peak_flops(torch.device("meta"))
    assert peak == pytest.approx(2 * 4096**3 / 2)
    assert source == "product of two 4096 x 4096 matrices, measured"


@pytest.fixture
def meter(monkeypatch):
    """A meter of two processes on a device of 1000 operations per second; the clock starts at 100 s."""
    monkeypatch.setattr(throughput, "peak_flops", lambda device: (1000.0, "assumed"))
    set_clock(monkeypatch, "perf_counter", [100.0])
    return Meter(60.0, SimpleNamespace(device=torch.device("cpu"), num_processes=2))


def test_meter_reading_is_exact(meter, monkeypatch):
    """20 s for 40 pairs of 60 operations on two processes; the loop waited 1 s and 2 s for two batches."""
    set_clock(monkeypatch, "perf_counter", [101, 102, 105, 107, 110, 110, 120, 200, 210, 300])
    assert list(meter.watch([3, 4])) == [3, 4]
    meter.pairs += 40
    expected = {"pairs_per_second": 2.0, "mfu": 2 * 60 / 2 / 1000, "share_waiting": 0.15}
    assert meter.read() == pytest.approx(expected)
    assert meter.summary() == "2.0 pairs/s, 6% MFU (peak: assumed), 15% of the time waiting for images"
    assert meter.read() == {"pairs_per_second": 0.0, "mfu": 0.0, "share_waiting": 0.0}  # 200 to 210 s


@pytest.mark.parametrize(("waited", "named"), [(10.0, False), (10.1, True)])
def test_meter_summary_names_waiting_above_a_tenth(meter, monkeypatch, waited, named):
    set_clock(monkeypatch, "perf_counter", [200.0, 200.0])
    meter.waited = waited
    assert ("of the time waiting for images" in meter.summary()) == named  # of 100 s; reads the meter if needed


def test_training_flops_print_nothing(tiny_model, tiny_processor, capsys):
    assert training_flops(tiny_model, tiny_processor, Accelerator(cpu=True)) > 0
    assert capsys.readouterr().out == ""


def test_training_flops_decrease_with_frozen_blocks_and_restore_state(tiny_config):
    accelerator, settings = (
        Accelerator(cpu=True),
        settings_with(data__ground_size=[28, 112], data__aerial_size=[56, 56]),
    )
    flops = {}
    for blocks in (None, 1, 0):
        tiny_config.trainable_blocks = blocks
        model = GenGeoModel(tiny_config).eval()
        state = torch.get_rng_state()
        flops[blocks] = training_flops(model, build_processor(settings), accelerator)
        assert torch.equal(torch.get_rng_state(), state) and not model.training
        assert all(parameter.grad is None for parameter in model.parameters())
    assert flops[None] > flops[1] > flops[0]


def test_training_flops_of_linear_model_equal_formula(tiny_processor):
    class Linear(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(3, 8, bias=False), torch.nn.Linear(8, 4, bias=False)

        def forward(self, pixels, view):
            found = self.second(self.first(pixels.flatten(2).mT)).mean(dim=1)
            return type("Output", (), {"pooler_output": found})

    sizes = tiny_processor.view_sizes
    tokens = sum(size["height"] * size["width"] for size in sizes.values())
    expected = tokens * (6 * (3 * 8 + 8 * 4) - 2 * 3 * 8)  # the input needs no gradient
    assert training_flops(Linear(), tiny_processor, Accelerator(cpu=True)) == expected


@pytest.mark.parametrize(
    ("device", "card"),
    [
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L40", None),
        ("NVIDIA L4", "L4"),
        ("NVIDIA GeForce RTX 2080 Ti", "RTX 2080 Ti"),
    ],
)
def test_card_of_matches_whole_names(device, card):
    assert card_of(device) == card
