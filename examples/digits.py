# SPDX-License-Identifier: Apache-2.0
"""A classifier of handwritten digits becomes a spiking network: no reinforcement learning, five lines of snnfast.

Run ``python examples/digits.py``; it needs scikit-learn, which has the images (``pip install scikit-learn``).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import snnfast as sf

TIMESTEPS = (2, 4, 8, 16, 32)


def train(images: Tensor, labels: Tensor, *, seed: int, epochs: int) -> nn.Sequential:
    """A ReLU network that classifies images (N, 64) with labels (N,)."""
    network = sf.make_policy([64, 128, 128, 10], seed=seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=generator).split(64):
            loss = nn.functional.cross_entropy(network(images[batch]), labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return network


def measure(seed: int, epochs: int) -> tuple[float, dict[int, tuple[float, float, float]]]:
    """Accuracy of one trained network; and of its conversions, by time steps: accuracy, equal decisions, spikes."""
    data = load_digits()
    split = train_test_split(data.data / 16.0, data.target, test_size=0.4, random_state=seed, stratify=data.target)
    images, test_images = (torch.tensor(part, dtype=torch.float32) for part in split[:2])
    labels, test_labels = (torch.tensor(part) for part in split[2:])

    network = train(images, labels, seed=seed, epochs=epochs)
    with torch.inference_mode():
        classes = network(test_images).argmax(dim=1)

    rows = {}
    for timesteps in TIMESTEPS:
        spiking = sf.convert(network, images, timesteps=timesteps)
        done = spiking.simulate(test_images)
        spiking_classes = done.output.argmax(dim=1)
        spikes = sum(float(counts.sum()) for counts in done.spike_counts) / len(test_images)
        equal = (spiking_classes == classes).float().mean().item()
        rows[timesteps] = ((spiking_classes == test_labels).float().mean().item(), equal, spikes)
    return (classes == test_labels).float().mean().item(), rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="how many networks to train (default %(default)s)")
    parser.add_argument("--epochs", type=int, default=40, help="passes over the images (default %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one network, trained briefly")
    given = parser.parse_args(arguments)
    seeds, epochs = (1, 5) if given.quick else (given.seeds, given.epochs)

    found = [measure(seed, epochs) for seed in range(seeds)]
    accuracy = statistics.fmean(original for original, _ in found)
    print(f"handwritten digits, 64-128-128-10, mean of {seeds} network{'s'[: seeds != 1]}, test images only")
    print(f"{'':<10} {'accuracy':>10} {'loss, points':>14} {'equal decisions':>17} {'spikes':>8}")
    print(f"{'original':<10} {100 * accuracy:>8.2f} %")
    for timesteps in TIMESTEPS:
        spiking, equal, spikes = (statistics.fmean(rows[timesteps][i] for _, rows in found) for i in range(3))
        print(
            f"{f'T = {timesteps}':<10} {100 * spiking:>8.2f} % {100 * (accuracy - spiking):>14.2f} "
            f"{100 * equal:>15.2f} % {spikes:>8.0f}"
        )


if __name__ == "__main__":
    main()
