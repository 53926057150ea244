"""One evaluation of the base network on a tile: MONAI's network under autocast, and ours prepared.

    python benchmarks/network.py [--tile 64 64 64] [--repeat 9] [--threads 1]

Both have the bundled weights and alternate in one process; times are medians of process CPU time,
since cores may be shared, so with several threads they add up those of all. MONAI's side profits,
too, from huge pages and our entry of conditions, so the ratio is that of the U-Net alone. GFLOP:
what our network multiplies and adds. The peak is that of one convolution with 96 channels, which is
faster than a matrix product, and takes turns with the networks. Then where the time of ours goes.
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

from denovox.core.condition import condition
from denovox.core.schedule import Schedule
from denovox.model import devices, weights
from denovox.model.cpu_inference import prepare
from denovox.model.denoiser import Denoiser, denoiser
from denovox.model.unet import Net

KINDS = {  # by parts of the names of torch's operations
    "convolutions": ("convolution",),
    "group norms": ("group_norm",),
    "SiLU": ("silu",),
    "joining and copying maps": ("aten::cat", "copy_"),
    "adding": ("add_", "aten::add"),
    "attention": ("attention", "addmm", "linear"),
    "local means": ("avg_pool",),
}


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


def best_case(dtype: torch.dtype) -> Callable[[], object]:
    """What these cores compute fastest."""
    x, weight = torch.randn(1, 96, 32, 32, 32), torch.randn(96, 96, 3, 3, 3)
    x, weight = (of.to(dtype, memory_format=torch.channels_last_3d) for of in (x, weight))
    return lambda: torch.mkldnn_convolution(x, weight, None, [1] * 3, [1] * 3, [1] * 3, 1)


BEST_GFLOP = 2 * 96 * 96 * 27 * 32**3 / 1e9


def gflop(call: Callable[[], object]) -> float:
    """Its arithmetic, in bfloat16: operations of float32 are not counted."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


def shares(call: Callable[[], object], repeat: int) -> dict[str, float]:
    """Shares of the time of an evaluation, by what is computed."""
    with torch.profiler.profile() as seen:
        for _ in range(repeat):
            call()
    found = dict.fromkeys((*KINDS, "the rest"), 0.0)
    for event in seen.key_averages():
        names = (kind for kind, words in KINDS.items() if any(w in event.key for w in words))
        found[next(names, "the rest")] += event.self_cpu_time_total
    return {kind: spent / sum(found.values()) for kind, spent in found.items()}


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
        both = {bfloat16: evaluators(bfloat16) for bfloat16 in (False, True)}
        work = gflop(lambda: both[True][1](x, 0.3, about))
        for bfloat16, (theirs, ours) in both.items():
            before, after = theirs(x, 0.3, about), ours(x, 0.3, about)
            best = best_case(torch.bfloat16 if bfloat16 else torch.float32)
            best()
            calls = (lambda: theirs(x, 0.3, about), lambda: ours(x, 0.3, about), best)  # noqa: B023
            times = [[seconds(call) for call in calls] for _ in range(given.repeat)]
            a, b, c = (statistics.median(of) for of in zip(*times, strict=True))
            off = float((after - before).std() / before.std())
            peak, rate = BEST_GFLOP / c, work / b
            print(
                f"| {'bfloat16' if bfloat16 else 'float32'} | {a:.3f} | {b:.3f} | {a / b:.2f} |"
                f" {rate:.0f} | {rate / peak:.0%} of {peak:.0f} | {off:.1e} |",
                flush=True,
            )
        print("\n| ours, bfloat16 | share of the time |\n|---|---|")
        for kind, share in shares(calls[1], given.repeat).items():
            print(f"| {kind} | {share:.0%} |")


if __name__ == "__main__":
    main()
