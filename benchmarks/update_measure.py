"""What both sides of ``benchmarks.bench_update`` measure with: time, peak memory, the gradient of the first update."""

from __future__ import annotations

import argparse
import gc
import json
import time
from pathlib import Path
from typing import Any

import torch

from agents.batch import TokenTensors, token_advantages
from benchmarks.bench_update import read_case


def read_arguments() -> tuple[argparse.Namespace, TokenTensors, torch.Tensor]:
    """The settings of a child, its batch, and an advantage ``(B, L)`` for each token."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", required=True)
    parser.add_argument("--micro-batch", type=int, required=True)
    parser.add_argument("--timed", type=int, required=True)
    parser.add_argument("--precision", required=True)
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--autocast", action="store_true")
    arguments = parser.parse_args()
    tokens, advantages = read_case(arguments.folder)
    return arguments, tokens, token_advantages(advantages, tokens.turn_ids)


class Meter:
    """Times updates, and holds on to the gradient that the first of them took its step with.

    Args:
        side: Name under which the gradient is written.
        arguments: The settings of the child.
        model: The model that is trained.
    """

    def __init__(self, side: str, arguments: argparse.Namespace, model: Any) -> None:
        self.side = side
        self.arguments = arguments
        self.model = model
        self.seconds: list[float] = []
        self.cpu_seconds: list[float] = []
        self.cuda = arguments.device.startswith("cuda")
        self._started = (0.0, 0.0)
        gc.collect()
        self._baseline = self._reset_peak()

    def start(self) -> None:
        """Call before an update."""
        self._synchronize()
        self._started = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        """Call after an update."""
        self._synchronize()
        self.seconds.append(time.perf_counter() - self._started[0])
        self.cpu_seconds.append(time.process_time() - self._started[1])

    def watch(self, optimizer: Any) -> None:
        """Write the gradient of the optimiser's first step."""

        def keep(*_: Any) -> None:
            handle.remove()
            gradients = {name: p.grad.float().cpu() for name, p in self.model.named_parameters() if p.grad is not None}
            torch.save(gradients, self.arguments.folder / f"gradient-{self.side}.pt")

        handle = optimizer.register_step_pre_hook(keep)

    def report(self, **facts: Any) -> None:
        """Print what was found, as one line of JSON; the first update is not timed."""
        peak = (self._peak() - self._baseline) / 2**20
        times = {"seconds": self.seconds[1:], "cpu_seconds": self.cpu_seconds[1:]}
        print(json.dumps({**times, "peak_mib": peak, **facts}))

    def _synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def _reset_peak(self) -> int:
        """Forget the peak of loading; returns the bytes that are held now."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            return int(torch.cuda.memory_allocated())
        Path("/proc/self/clear_refs").write_text("5")
        return _status("VmRSS")

    def _peak(self) -> int:
        return int(torch.cuda.max_memory_allocated()) if self.cuda else _status("VmHWM")


def _status(name: str) -> int:
    """A figure of this process, in bytes, as Linux keeps it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024
