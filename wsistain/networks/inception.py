"""Inception-v3 (Szegedy et al. 2016) to its 2048 pooled features, with the key names shared by its two published files.

Two variants: `fid`, the weights of TensorFlow's 2015 graph as ported by pytorch-fid (average pools leave the padding
out, the last block pools by maximum), and `torchvision`, the ImageNet weights of torchvision (plain average pools).
"""

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsistain.published.tensors import load_into, read_published

Variant = Literal["fid", "torchvision"]


class _Conv(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int | tuple[int, int], stride: int = 1) -> None:
        super().__init__()
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (0, 0) if stride == 2 else (size[0] // 2, size[1] // 2)
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return y.relu_()


class _Mixed(nn.Module):
    """Parallel paths joined over channels; the pooled path, where there is one, ends in `branch_pool`."""

    def __init__(self, pool: str) -> None:
        super().__init__()
        self.pool = pool

    def pooled(self, x: Tensor) -> Tensor:
        if self.pool == "max":
            return F.max_pool2d(x, 3, 1, 1)
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=self.pool == "average with padding")


class _A(_Mixed):
    def __init__(self, inputs: int, pool_width: int, d: int, pool: str) -> None:
        super().__init__(pool)
        self.branch1x1 = _Conv(inputs, 64 // d, 1)
        self.branch5x5_1 = _Conv(inputs, 48 // d, 1)
        self.branch5x5_2 = _Conv(48 // d, 64 // d, 5)
        self.branch3x3dbl_1 = _Conv(inputs, 64 // d, 1)
        self.branch3x3dbl_2 = _Conv(64 // d, 96 // d, 3)
        self.branch3x3dbl_3 = _Conv(96 // d, 96 // d, 3)
        self.branch_pool = _Conv(inputs, pool_width, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        five = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(self.pooled(x))], 1)


class _B(nn.Module):
    def __init__(self, inputs: int, d: int) -> None:
        super().__init__()
        self.branch3x3 = _Conv(inputs, 384 // d, 3, 2)
        self.branch3x3dbl_1 = _Conv(inputs, 64 // d, 1)
        self.branch3x3dbl_2 = _Conv(64 // d, 96 // d, 3)
        self.branch3x3dbl_3 = _Conv(96 // d, 96 // d, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class _C(_Mixed):
    def __init__(self, inputs: int, width: int, d: int, pool: str) -> None:
        super().__init__(pool)
        self.branch1x1 = _Conv(inputs, 192 // d, 1)
        self.branch7x7_1 = _Conv(inputs, width, 1)
        self.branch7x7_2 = _Conv(width, width, (1, 7))
        self.branch7x7_3 = _Conv(width, 192 // d, (7, 1))
        self.branch7x7dbl_1 = _Conv(inputs, width, 1)
        self.branch7x7dbl_2 = _Conv(width, width, (7, 1))
        self.branch7x7dbl_3 = _Conv(width, width, (1, 7))
        self.branch7x7dbl_4 = _Conv(width, width, (7, 1))
        self.branch7x7dbl_5 = _Conv(width, 192 // d, (1, 7))
        self.branch_pool = _Conv(inputs, 192 // d, 1)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(self.pooled(x))], 1)


class _D(nn.Module):
    def __init__(self, inputs: int, d: int) -> None:
        super().__init__()
        self.branch3x3_1 = _Conv(inputs, 192 // d, 1)
        self.branch3x3_2 = _Conv(192 // d, 320 // d, 3, 2)
        self.branch7x7x3_1 = _Conv(inputs, 192 // d, 1)
        self.branch7x7x3_2 = _Conv(192 // d, 192 // d, (1, 7))
        self.branch7x7x3_3 = _Conv(192 // d, 192 // d, (7, 1))
        self.branch7x7x3_4 = _Conv(192 // d, 192 // d, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, 2)], 1)


class _E(_Mixed):
    def __init__(self, inputs: int, d: int, pool: str) -> None:
        super().__init__(pool)
        self.branch1x1 = _Conv(inputs, 320 // d, 1)
        self.branch3x3_1 = _Conv(inputs, 384 // d, 1)
        self.branch3x3_2a = _Conv(384 // d, 384 // d, (1, 3))
        self.branch3x3_2b = _Conv(384 // d, 384 // d, (3, 1))
        self.branch3x3dbl_1 = _Conv(inputs, 448 // d, 1)
        self.branch3x3dbl_2 = _Conv(448 // d, 384 // d, 3)
        self.branch3x3dbl_3a = _Conv(384 // d, 384 // d, (1, 3))
        self.branch3x3dbl_3b = _Conv(384 // d, 384 // d, (3, 1))
        self.branch_pool = _Conv(inputs, 192 // d, 1)

    def forward(self, x: Tensor) -> Tensor:
        three = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        paths = [self.branch1x1(x), self.branch3x3_2a(three), self.branch3x3_2b(three)]
        paths += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double), self.branch_pool(self.pooled(x))]
        return torch.cat(paths, 1)


class _Stem(_Conv):
    """A convolution without padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride)
        self.conv.padding = (0, 0)


class InceptionFeatures(nn.Module):
    """The 2048 pooled features of an image, as FID and KID use them.

    variant       : "fid" or "torchvision" (see the module).
    width_divisor : channels are the published ones divided by this (1: Inception-v3 itself); 2, 4, 8 or 16.

    Keys are those of `pt_inception-2015-12-05-6726825d.pth` and `inception_v3_google-0cc3c7bd.pth`; classifier and
    auxiliary head are left out.
    """

    def __init__(self, variant: Variant = "fid", width_divisor: int = 1) -> None:
        super().__init__()
        d = width_divisor
        average = "average" if variant == "fid" else "average with padding"
        self.Conv2d_1a_3x3 = _Stem(3, 32 // d, 3, 2)
        self.Conv2d_2a_3x3 = _Stem(32 // d, 32 // d, 3)
        self.Conv2d_2b_3x3 = _Conv(32 // d, 64 // d, 3)
        self.Conv2d_3b_1x1 = _Conv(64 // d, 80 // d, 1)
        self.Conv2d_4a_3x3 = _Stem(80 // d, 192 // d, 3)
        self.Mixed_5b = _A(192 // d, 32 // d, d, average)
        self.Mixed_5c = _A(256 // d, 64 // d, d, average)
        self.Mixed_5d = _A(288 // d, 64 // d, d, average)
        self.Mixed_6a = _B(288 // d, d)
        self.Mixed_6b = _C(768 // d, 128 // d, d, average)
        self.Mixed_6c = _C(768 // d, 160 // d, d, average)
        self.Mixed_6d = _C(768 // d, 160 // d, d, average)
        self.Mixed_6e = _C(768 // d, 192 // d, d, average)
        self.Mixed_7a = _D(768 // d, d)
        self.Mixed_7b = _E(1280 // d, d, average)
        self.Mixed_7c = _E(2048 // d, d, "max" if variant == "fid" else average)

    def forward(self, light: Tensor) -> Tensor:
        """Features float (b, 2048) of `light`, float (b, 3, h, w) in [0, 1].

        The image is resized to 299 x 299 (bilinear, corners not aligned, no antialiasing) and mapped to [-1, 1].
        """
        x = F.interpolate(light, size=(299, 299), mode="bilinear", align_corners=False) * 2 - 1
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6e(self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))))
        pooled: Tensor = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))
        return pooled.mean(dim=(2, 3))

    def load_published(self, path: Path | str) -> None:
        """Load the published file; every tensor but the classifiers' must match. Raises WeightsError."""
        load_into(self, read_published(path), str(path), ignore=("fc.", "AuxLogits."))
