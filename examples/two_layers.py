"""A torch module as C: compiled once, run at several sizes, opened again without torch's help."""

import numpy as np
import torch

import kaoken


class TwoLayers(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = torch.nn.Linear(64, 256)
        self.down = torch.nn.Linear(256, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(torch.nn.functional.gelu(self.up(x)))


def main() -> None:
    module = TwoLayers().eval()
    rows = torch.export.Dim("rows", max=128)
    model = kaoken.compile(module, (torch.randn(2, 64),), dynamic_shapes=({0: rows},))
    print(f"C source, header, weights and library are in {model.folder}")

    for count in (1, 5, 128):
        x = torch.randn(count, 64)
        difference = (model(x) - module(x)).abs().max().item()
        print(f"{count} rows: largest difference from PyTorch {difference:.1e}")

    again = kaoken.load(model.folder)
    x = np.ones((3, 64), np.float32)
    y = np.empty((3, 64), np.float32)
    again.bind(x, out=y)()  # a bound call has no checks left to do
    print(f"opened again: y[0, 0] = {y[0, 0]:.4f}")


if __name__ == "__main__":
    main()
