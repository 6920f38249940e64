"""ResNet-50 (He et al. 2016; torchvision's variant with the stride in the 3x3), its stages, published key names."""

from pathlib import Path

from torch import Tensor, nn

from wsistain.published.tensors import load_into, read_published


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Sequential | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn1(self.conv1(x)).relu_()
        y = self.bn2(self.conv2(y)).relu_()
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return y.relu_()


class ResNet50Features(nn.Module):
    """Outputs of the four stages layer1..layer4: 256, 512, 1024 and 2048 channels at 1/4 to 1/32 of the size.

    width_divisor : channels are the published ones divided by this (1: ResNet-50 itself).
    stages        : how many of them are built.

    Keys are those of torchvision's `resnet50-0676ba61.pth` (V1); the classifier is left out.
    """

    def __init__(self, width_divisor: int = 1, stages: int = 4) -> None:
        super().__init__()
        self.n_stages = stages
        inputs = 64 // width_divisor
        self.conv1 = nn.Conv2d(3, inputs, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        for index, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))[:stages]):
            stage = []
            for block in range(blocks):
                stage.append(_Bottleneck(inputs, width // width_divisor, 2 if block == 0 and index else 1))
                inputs = 4 * width // width_divisor
            self.add_module(f"layer{index + 1}", nn.Sequential(*stage))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Stage outputs of `x`, float (b, 3, h, w) with ImageNet's mean and standard deviation taken out."""
        x = self.maxpool(self.bn1(self.conv1(x)).relu_())
        stages = []
        for index in range(1, self.n_stages + 1):
            x = self.get_submodule(f"layer{index}")(x)
            stages.append(x)
        return stages

    def load_published(self, path: Path | str) -> None:
        """Load torchvision's file; every tensor but the classifier's must match. Raises WeightsError."""
        load_into(self, read_published(path), str(path), ignore=("fc.",))
