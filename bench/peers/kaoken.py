"""kaoken, compiled for this CPU."""

from collections.abc import Callable
from typing import Any

from bench.workloads import Workload


def prepare(workload: Workload, threads: int) -> Callable[[], Any]:
    import kaoken

    model = kaoken.compile(
        workload.module,
        (),
        workload.export_inputs,
        dynamic_shapes=workload.dynamic_shapes,
        threads=threads,
    )
    inputs = {name: value.numpy() for name, value in workload.inputs.items()}
    return lambda: model(**inputs)
