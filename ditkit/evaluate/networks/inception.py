"""Inception v3 of the standard FID: the TensorFlow graph of 2015-12-05 (Szegedy et al. 2016, arXiv:1512.00567).

It is not torchvision's: no auxiliary head, 1,008 classes, average pools that do not count their padding, and a maximum
in the last block. Modules are named as in the published port's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ditkit.base.errors import UserError
from ditkit.convert.files import read_state
from ditkit.evaluate.networks.network import NetworkProtocol, Taps, as_rgb, exact_float32
from ditkit.evaluate.networks.resize import bilinear_tf1
from ditkit.evaluate.networks.weights import Published, weights_hash

SIZE = 299
SPATIAL_CHANNELS = 7
"""Of the 17x17 map: 2,023 values, as many as fit beside the 2,048 features (Nash et al. 2021, arXiv:2103.03841)."""

COUNTER = "num_batches_tracked"

WEIGHTS = Published(
    network="inception",
    file="pt_inception-2015-12-05-6726825d.pth",
    url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
    variable="DITKIT_INCEPTION",
    gives="FID, sFID, KID and the Inception Score",
)


class Conv(nn.Module):
    """relu(norm(conv(x))), the convolution without a bias."""

    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1, pad: bool = True):
        super().__init__()
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (size[0] // 2, size[1] // 2) if pad else 0
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


def average(x: Tensor) -> Tensor:
    """3x3 mean at stride 1 over the pixels that there are: the padding does not count."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def maximum(x: Tensor) -> Tensor:
    """3x3 maximum at stride 1."""
    return F.max_pool2d(x, 3, stride=1, padding=1)


class Mixed35(nn.Module):
    """The block of the 35x35 maps (figure 5 of the paper, with a 5x5 branch): C to 224 + pooled channels."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(inputs, 64, 1)
        self.branch5x5_1 = Conv(inputs, 48, 1)
        self.branch5x5_2 = Conv(48, 64, 5)
        self.branch3x3dbl_1 = Conv(inputs, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3)
        self.branch_pool = Conv(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(average(x))], 1)


class Shrink35(nn.Module):
    """35x35 to 17x17: C to 480 + C channels."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = Conv(inputs, 384, 3, stride=2, pad=False)
        self.branch3x3dbl_1 = Conv(inputs, 64, 1)
        self.branch3x3dbl_2 = Conv(64, 96, 3)
        self.branch3x3dbl_3 = Conv(96, 96, 3, stride=2, pad=False)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], 1)


class Mixed17(nn.Module):
    """The block of the 17x17 maps (figure 6): 7x7 convolutions in two factors, 768 to 768 channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch1x1 = Conv(768, 192, 1)
        self.branch7x7_1 = Conv(768, width, 1)
        self.branch7x7_2 = Conv(width, width, (1, 7))
        self.branch7x7_3 = Conv(width, 192, (7, 1))
        self.branch7x7dbl_1 = Conv(768, width, 1)
        self.branch7x7dbl_2 = Conv(width, width, (7, 1))
        self.branch7x7dbl_3 = Conv(width, width, (1, 7))
        self.branch7x7dbl_4 = Conv(width, width, (7, 1))
        self.branch7x7dbl_5 = Conv(width, 192, (1, 7))
        self.branch_pool = Conv(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1x1(x), self.rest(x)], 1)

    def rest(self, x: Tensor) -> Tensor:
        """Every branch but the first."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([seven, double, self.branch_pool(average(x))], 1)


class Shrink17(nn.Module):
    """17x17 to 8x8: 768 to 1,280 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = Conv(768, 192, 1)
        self.branch3x3_2 = Conv(192, 320, 3, stride=2, pad=False)
        self.branch7x7x3_1 = Conv(768, 192, 1)
        self.branch7x7x3_2 = Conv(192, 192, (1, 7))
        self.branch7x7x3_3 = Conv(192, 192, (7, 1))
        self.branch7x7x3_4 = Conv(192, 192, 3, stride=2, pad=False)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x)))
        three = self.branch3x3_2(self.branch3x3_1(x))
        return torch.cat([three, self.branch7x7x3_4(seven), F.max_pool2d(x, 3, stride=2)], 1)


class Mixed8(nn.Module):
    """The block of the 8x8 maps (figure 7): C to 2,048 channels. pool: what goes before the pooling branch."""

    def __init__(self, inputs: int, pool: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.pool = pool
        self.branch1x1 = Conv(inputs, 320, 1)
        self.branch3x3_1 = Conv(inputs, 384, 1)
        self.branch3x3_2a = Conv(384, 384, (1, 3))
        self.branch3x3_2b = Conv(384, 384, (3, 1))
        self.branch3x3dbl_1 = Conv(inputs, 448, 1)
        self.branch3x3dbl_2 = Conv(448, 384, 3)
        self.branch3x3dbl_3a = Conv(384, 384, (1, 3))
        self.branch3x3dbl_3b = Conv(384, 384, (3, 1))
        self.branch_pool = Conv(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        return torch.cat(
            [
                self.branch1x1(x),
                self.branch3x3_2a(three),
                self.branch3x3_2b(three),
                self.branch3x3dbl_3a(double),
                self.branch3x3dbl_3b(double),
                self.branch_pool(self.pool(x)),
            ],
            1,
        )


class InceptionV3(nn.Module):
    """The network alone: float images (B, 3, 299, 299) in [-1, 1] to its taps."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Conv(3, 32, 3, stride=2, pad=False)
        self.Conv2d_2a_3x3 = Conv(32, 32, 3, pad=False)
        self.Conv2d_2b_3x3 = Conv(32, 64, 3)
        self.Conv2d_3b_1x1 = Conv(64, 80, 1)
        self.Conv2d_4a_3x3 = Conv(80, 192, 3, pad=False)
        self.Mixed_5b = Mixed35(192, 32)
        self.Mixed_5c = Mixed35(256, 64)
        self.Mixed_5d = Mixed35(288, 64)
        self.Mixed_6a = Shrink35(288)
        self.Mixed_6b = Mixed17(128)
        self.Mixed_6c = Mixed17(160)
        self.Mixed_6d = Mixed17(160)
        self.Mixed_6e = Mixed17(192)
        self.Mixed_7a = Shrink17()
        self.Mixed_7b = Mixed8(1280, average)
        self.Mixed_7c = Mixed8(2048, maximum)
        self.fc = nn.Linear(2048, 1008)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Maps by name: "64", "192", "768" as (B, C, H, W), "spatial" (B, 192, 17, 17), "2048" (B, 2048)."""
        taps = {}
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        taps["64"] = x = F.max_pool2d(x, 3, stride=2)
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        taps["192"] = x = F.max_pool2d(x, 3, stride=2)
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6c(self.Mixed_6b(x))
        taps["spatial"] = self.Mixed_6d.branch1x1(x)
        taps["768"] = x = self.Mixed_6e(torch.cat([taps["spatial"], self.Mixed_6d.rest(x)], 1))
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        taps["2048"] = x.mean((2, 3))
        return taps


def spatial_features(maps: Tensor, channels: int = SPATIAL_CHANNELS) -> Tensor:
    """The values of sFID (B, H * W * 7) of maps (B, C, H, W): rows, columns, then channels, the first seven."""
    return maps[:, :channels].permute(0, 2, 3, 1).flatten(1)


class Inception:
    """The feature network of FID, sFID, KID and the Inception Score: 2,048 features, 2,023 spatial ones, 1,008 logits.

    Any image size: resized to 299 by TensorFlow 1's bilinear rule, then (x - 128) / 128. Logits are without their
    bias, as the published Inception Score takes them.
    """

    name: ClassVar[str] = "inception"
    aliases: ClassVar[Mapping[str, str]] = {
        "frechet_distance": "fid",
        "spatial_frechet_distance": "sfid",
        "kernel_distance": "kid",
    }
    num_classes: ClassVar[int | None] = None

    def __init__(self, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> None:
        """state: the published weights by key. Raises UserError on missing, unknown or misshapen ones."""
        with torch.device("meta"):
            net = InceptionV3()
        check_state(net, state)
        counters = {key: torch.tensor(0) for key in net.state_dict() if key.endswith(COUNTER)}  # training's, unused
        net.load_state_dict({**state, **counters}, assign=True)
        # channels last: pooling on a CPU takes a fraction of the time
        net = net.float().to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.net = net.eval().requires_grad_(False)
        self.protocol = NetworkProtocol(
            network="inception-v3-2015-12-05",
            weights=weights_hash(state),
            resizing="299x299, bilinear of TensorFlow 1 (no half-pixel centres, no antialiasing)",
            values="(x - 128) / 128",
            features="pool3, 2048; spatial: mixed_6/conv, 17x17x7; logits without bias",
        )

    @classmethod
    def load(cls, path: Path | str | None = None, device: torch.device | str = "cpu") -> Inception:
        """From a file of the published weights (.pth or .safetensors); None: DITKIT_INCEPTION or torch's hub cache."""
        return cls(read_state(WEIGHTS.find(path)), device)

    @staticmethod
    def outline() -> tuple[nn.Module, torch.Size]:
        """The network without weights, on the meta device, and the shape of its input for one image."""
        with torch.device("meta"):
            return InceptionV3(), torch.Size([1, 3, SIZE, SIZE])

    @torch.no_grad()
    def maps(self, images: Tensor) -> dict[str, Tensor]:
        """The network's maps (see ``InceptionV3.forward``) of uint8 images (B, C, H, W), on its device."""
        device = self.net.fc.weight.device
        x = (bilinear_tf1(as_rgb(images.to(device)), SIZE, SIZE) - 128) / 128
        with exact_float32():
            return self.net(x.contiguous(memory_format=torch.channels_last))

    def look(self, images: Tensor) -> Taps:
        """Features (B, 2048), logits (B, 1008) and spatial features (B, 2023), on the CPU."""
        return self.taps(self.maps(images))

    @torch.no_grad()
    def taps(self, maps: Mapping[str, Tensor]) -> Taps:
        """What the metrics take of the network's maps, on the CPU."""
        with exact_float32():
            logits = maps["2048"] @ self.net.fc.weight.T
        return Taps(maps["2048"].cpu(), logits.cpu(), spatial_features(maps["spatial"]).cpu())


def check_state(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raises UserError unless ``state`` has the network's keys and shapes, its training counters aside."""
    wanted, given = (
        {key: tuple(value.shape) for key, value in weights.items() if not key.endswith(COUNTER)}
        for weights in (net.state_dict(), state)
    )
    wrong = sorted(k for k in wanted.keys() | given.keys() if wanted.get(k) != given.get(k))
    if wrong:
        key = wrong[0]
        raise UserError(
            f"{len(wrong)} weights do not fit, such as {key!r}: {given.get(key, 'missing')}, expected "
            f"{wanted.get(key, 'none')}: give the published file {WEIGHTS.file} (torchvision's Inception is another)"
        )
