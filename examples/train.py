"""Fine-tunes the demo's digit network with SAM, so that its delta merges well: a plain training loop.

python examples/train.py
"""

import torch
from torch.nn.functional import cross_entropy

import pydelta.optim
from pydelta.demo.data import load
from pydelta.demo.train import Network


def main(steps: int = 60, hidden: int = 256) -> float:
    torch.manual_seed(0)
    digits = load(seed=0)
    (x, y), (test_x, test_y) = digits.train.view("rotated"), digits.test.view("rotated")
    model = Network(hidden)

    optimizer = pydelta.optim.SAM(torch.optim.AdamW(model.parameters(), lr=1e-3), rho=0.05, model=model)
    for rows in torch.randint(len(x), (steps, 128)):

        def closure(rows: torch.Tensor = rows) -> torch.Tensor:
            loss = cross_entropy(model(x[rows]), y[rows])
            loss.backward()
            return loss

        optimizer.step(closure)

    with torch.no_grad():
        return float((model(test_x).argmax(-1) == test_y).float().mean())


if __name__ == "__main__":
    print(f"test accuracy: {main():.1%}")
