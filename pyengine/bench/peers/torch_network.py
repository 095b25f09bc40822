"""What the contestants on PyTorch share: tensors that share the arrays' memory, and the network as functions."""

from __future__ import annotations

from typing import Any

from ..sizes import WEIGHT_B, Numbers, Size

PARTS = ("trunk", "heads.a", "heads.b")


def environment(threads: int) -> dict[str, str]:
    return {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "CUDA_VISIBLE_DEVICES": "-1"}


class TorchNetwork:
    """Tensors and forward pass. ``F.linear`` on lists of tensors: less overhead than modules have."""

    def __init__(self, size: Size, numbers: Numbers, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch = torch
        self.x = torch.from_numpy(numbers.x)
        self.classes = torch.from_numpy(numbers.classes)
        self.values = torch.from_numpy(numbers.values)
        self.trunk, self.a, self.b = (
            [torch.from_numpy(array).requires_grad_() for array in numbers.part(size, part)] for part in PARTS
        )
        self.versions = {"torch": str(torch.__version__)}

    def features(self, trunk: Any, x: Any) -> Any:
        return self.torch.relu(self._mlp(trunk, x))

    def loss_a(self, head: Any, h: Any, classes: Any) -> Any:
        return self.torch.nn.functional.cross_entropy(self._mlp(head, h), classes)

    def loss_b(self, head: Any, h: Any, values: Any) -> Any:
        return self.torch.nn.functional.mse_loss(self._mlp(head, h), values)

    def total(self, trunk: Any, a: Any, b: Any, x: Any, classes: Any, values: Any) -> Any:
        h = self.features(trunk, x)
        return self.loss_a(a, h, classes) + WEIGHT_B * self.loss_b(b, h, values)

    def _mlp(self, layers: Any, h: Any) -> Any:
        linear, relu = self.torch.nn.functional.linear, self.torch.relu
        for i in range(0, len(layers) - 2, 2):
            h = relu(linear(h, layers[i], layers[i + 1]))
        return linear(h, layers[-2], layers[-1])


def numpy_lists(result: Any) -> Any:
    """Every tensor of a nest of dicts and lists as an array."""
    if isinstance(result, dict):
        return {key: numpy_lists(value) for key, value in result.items()}
    return [tensor.detach().numpy() for tensor in result]
