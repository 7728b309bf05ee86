"""PyTorch, eager."""

from collections.abc import Callable
from typing import Any

from bench.workloads import Workload


def prepare(workload: Workload, threads: int) -> Callable[[], Any]:
    import torch

    torch.set_num_threads(threads)
    module, inputs = workload.module, workload.inputs

    def run() -> Any:
        with torch.inference_mode():
            return module(**inputs)

    return run
