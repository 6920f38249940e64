"""A system for tests whose generator is a narrow ResNet-6 with instance norm."""

from torch import nn

from wsistain.networks.resnet import ResnetGenerator


def generator_network(options: dict) -> nn.Module:
    return ResnetGenerator(options.get("n_blocks", 1), options.get("ngf", 4))
