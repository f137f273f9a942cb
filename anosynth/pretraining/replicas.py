"""One training step on several CPU cores: each thread takes a part of the batch through its own copy of the network.

Threads inside an operation wait for each other thousands of times a step, which on a machine shared with others costs
most of the time; here they meet once a step.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor, nn

Report = TypeVar("Report")


class Replicas:
    """A network and copies that share its weights, but not its gradients and buffers.

    Attributes:
        network: the original; receives the mean gradient.
        count: number of parts a batch is cut into; 1 works in the calling thread, on any device.
    """

    def __init__(self, network: nn.Module, *, count: int) -> None:
        self.network = network
        self.count = count
        self._copies = [network, *(copy.deepcopy(network) for _ in range(count - 1))]
        for replica in self._copies[1:]:
            for own, shared in zip(replica.parameters(), network.parameters(), strict=True):
                own.data = shared.data
        self._pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(1,)) if count > 1 else None

    def backward(self, loss_of: Callable[[nn.Module, int], tuple[Tensor, Report]]) -> list[Report]:
        """Put the gradient of the mean loss into `network`'s parameters; buffers become the mean of the copies'.

        Args:
            loss_of: (network, part number) -> (loss, whatever is to be reported); called once for every part, in
                several threads at once. It enters autocast itself and draws from its own generators.

        Returns:
            the reports in the order of the parts.
        """

        def work(part: int) -> Report:
            loss, report = loss_of(self._copies[part], part)
            (loss / self.count).backward()
            return report

        if self._pool is None:
            return [work(0)]
        reports = list(self._pool.map(work, range(self.count)))
        with torch.no_grad():
            for group in zip(*(replica.parameters() for replica in self._copies), strict=True):
                for other in group[1:]:
                    assert group[0].grad is not None
                    assert other.grad is not None
                    group[0].grad.add_(other.grad)
                    other.grad = None
            for buffers in zip(*(replica.buffers() for replica in self._copies), strict=True):
                if buffers[0].is_floating_point():
                    mean = torch.stack(buffers).mean(dim=0)
                    for buffer in buffers:
                        buffer.copy_(mean)
        return reports
