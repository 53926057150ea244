"""One evaluation of the base network on a tile: MONAI's network under autocast, and ours prepared.

    python benchmarks/network.py [--tile 64 64 64] [--repeat 9] [--threads 1]

Both have the bundled weights and alternate in one process; times are medians of process CPU time,
since cores may be shared, so with several threads they add up those of all. "Arithmetic" counts
what MONAI's network multiplies and adds (ours needs fewer); MONAI's side profits, too, from huge
pages and our entry of conditions, so the ratio is that of the U-Net
alone. The peak is that of a 2048^3 matrix product.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
from torch.utils.flop_counter import FlopCounterMode

from denovox.core.condition import Condition, condition
from denovox.core.schedule import Schedule
from denovox.model import devices, weights
from denovox.model.cpu_inference import prepare
from denovox.model.denoiser import Denoiser, denoiser
from denovox.model.unet import Net


class Monai(torch.nn.Module):
    """MONAI's network in place of our U-Net, called as ours is."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        shape = net.config.shape
        self.unet = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=net.unet.in_channels,
            out_channels=1,
            num_res_blocks=shape.blocks,
            channels=shape.channels,
            attention_levels=shape.attention,
            norm_num_groups=shape.groups,
            num_head_channels=shape.head,
            num_class_embeds=1,
            use_flash_attention=True,
        )
        self.unet.add_module("class_embedding", copy.deepcopy(net.unet.class_embedding))
        self.unet.load_state_dict(net.unet.state_dict())
        self.dtype = torch.float32

    def forward(self, x: torch.Tensor, t: torch.Tensor, whole: torch.Tensor, _: None):
        return self.unet(x, t, class_labels=whole)


def evaluators(bfloat16: bool) -> tuple[Denoiser, Denoiser]:
    """(MONAI's, ours)."""
    path = weights.locate("base")
    config = weights.describe(path)[0]
    nets = []
    for ours in (False, True):
        net = config.build().eval().requires_grad_(False)
        net.load_state_dict(weights.state_for(path, config))
        if ours:
            prepare(net, bfloat16)
        else:
            net.unet = Monai(net)
        nets.append(devices.place(net, "cpu"))
    schedule: Schedule = config.noise_schedule
    theirs = denoiser(nets[0], schedule, config.prediction, bfloat16)
    return theirs, denoiser(nets[1], schedule, config.prediction)


def seconds(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def peak(dtype: torch.dtype, edge: int = 2048) -> float:
    """GFLOP per second of CPU time."""
    a = torch.randn(edge, edge).to(dtype)
    a @ a
    return 2 * edge**3 / statistics.median(seconds(lambda: a @ a) for _ in range(9)) / 1e9


def gflop(denoise: Denoiser, x: torch.Tensor, given: Condition) -> float:
    """Arithmetic of one evaluation."""
    with FlopCounterMode(display=False) as counter:
        denoise(x, 0.3, given)
    return counter.get_total_flops() / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tile", type=int, nargs=3, default=(64, 64, 64))
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    shape = tuple(given.tile)
    about = condition(shape, (1.5, 1.5, 1.5), 2)
    x = torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    print("| precision | MONAI, s | ours, s | ratio | ours, GFLOP/s | of the peak | difference |")
    print("|---|---|---|---|---|---|---|")
    with torch.inference_mode():
        work = gflop(evaluators(True)[0], x, about)  # in float32 its operations are not counted
    for bfloat16 in (False, True):
        theirs, ours = evaluators(bfloat16)
        with torch.inference_mode():
            before, after = theirs(x, 0.3, about), ours(x, 0.3, about)
            times = [
                [seconds(lambda each=each: each(x, 0.3, about)) for each in (theirs, ours)]
                for _ in range(given.repeat)
            ]
        a, b = (statistics.median(of) for of in zip(*times, strict=True))
        best = peak(torch.bfloat16 if bfloat16 else torch.float32)
        name = "bfloat16" if bfloat16 else "float32"
        off = float((after - before).std() / before.std())
        rate = work / b
        print(
            f"| {name} | {a:.3f} | {b:.3f} | {a / b:.2f} | {rate:.0f} | {rate / best:.0%} of"
            f" {best:.0f} | {off:.1e} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
