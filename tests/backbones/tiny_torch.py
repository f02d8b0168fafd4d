"""A user's file with small PyTorch backbones, and with what can go wrong in one."""

import torch
from timm.layers import DropPath
from torch import nn


class Block(nn.Module):
    def __init__(self, width: int, rate: float):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.drop_path = DropPath(rate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.drop_path(nn.functional.gelu(self.bn(self.conv(x))))


class Net(nn.Module):
    """Everything that a bridge has to carry: statistics, a tied weight, a frozen one, buffers of both kinds, maps."""

    def __init__(self, drop_path: float, dropout: float):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.ModuleList([Block(8, drop_path) for _ in range(2)])
        self.down = nn.Conv2d(8, 16, 2, 2)
        self.norm = nn.GroupNorm(4, 16)
        self.proj = nn.Linear(16, 16, bias=False)
        self.again = nn.Linear(16, 16, bias=False)
        self.again.weight = self.proj.weight
        self.dropout = nn.Dropout(dropout)
        self.fixed = nn.Parameter(torch.linspace(0.5, 1.5, 16), requires_grad=False)
        self.register_buffer("shift", torch.linspace(-1, 1, 16))
        self.register_buffer("order", torch.arange(16).flip(0))
        self.register_buffer("sign", torch.tensor([1.0, -1.0]).repeat(8), persistent=False)
        self.plain = torch.linspace(1, 2, 16)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        fine = self.stem(x)
        for block in self.blocks:
            fine = block(fine)
        coarse = self.norm(self.down(fine))
        pooled = coarse.mean((2, 3))[:, self.order] * self.sign * self.fixed * self.plain + self.shift
        pooled = pooled + torch.arange(16) / 16
        return self.again(self.dropout(torch.softmax(self.proj(pooled), -1))), [fine, coarse]


def build(drop_path: float = 0.0) -> nn.Module:
    return Net(drop_path, 0.0)


def with_dropout() -> nn.Module:
    return Net(0.0, 0.5)


def raising() -> nn.Module:
    raise ValueError("no such size\nand more")


def number() -> int:
    return 3


class _Airy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(torch.special.airy_ai(x.mean((2, 3))))


def airy() -> nn.Module:
    return _Airy()


class _Branching(_Airy):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x.mean((2, 3))) if x.sum() > 0 else x.mean((2, 3))


def branching() -> nn.Module:
    return _Branching()


class _Tokens(_Airy):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x.flatten(2).transpose(1, 2))


def tokens() -> nn.Module:
    return _Tokens()
