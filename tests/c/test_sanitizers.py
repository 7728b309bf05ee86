"""Generated C and the runtime under the sanitizers of gcc and clang.

Each model is compiled with its runtime and a driver into one program, which runs every size up to
a small limit on exactly sized arrays, so that a read or write beside them is an error.
"""

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from kaoken.backend.c_api import C_TYPES
from kaoken.backend.loader import read_manifest
from kaoken.backend.names import c_identifier
from kaoken.backend.toolchain import find_compiler
from kaoken.errors import KaokenError
from tests.unit.tiny_model import write_tiny

ADDRESS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")
THREAD = ("-fsanitize=thread",)


def run_sanitized(
    folder: Path, flags: Sequence[str], sizes: Sequence[Mapping[str, int]], threads: int
) -> None:
    """Build the package's sources with a driver that runs all `sizes`, and run it."""
    manifest = read_manifest(folder)
    driver = folder / "driver.c"
    driver.write_text(driver_text(manifest, sizes, threads))
    sources = [f"{manifest['name']}.c", "kaoken_runtime.c", "kaoken_cpu.c", "driver.c"]
    program = folder / "driver"
    command = [*find_compiler().command, "-std=gnu11", "-g", "-O1", "-pthread", *flags]
    command += [*_target_flags(manifest["target"]), f"-I{folder}"]
    command += [str(folder / source) for source in sources]
    built = subprocess.run([*command, "-lm", "-o", str(program)], capture_output=True, text=True)
    if "cannot find" in built.stderr:
        pytest.skip(f"this compiler has no {flags[0]}")
    assert built.returncode == 0, built.stderr
    weights = folder / manifest["weights"]
    ran = subprocess.run([program, weights], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""


def _target_flags(target: str) -> tuple[str, ...]:
    from kaoken.backend.machine import TargetMachine

    flags = TargetMachine.parse(target).compiler_flags(find_compiler().family)
    return tuple(flag for flag in flags if flag.startswith(("-m", "-ff")))


def driver_text(
    manifest: Mapping[str, Any], sizes: Sequence[Mapping[str, int]], threads: int
) -> str:
    """A C program that runs the model once for each assignment of its open sizes."""
    name = manifest["name"]
    tensors = [*manifest["inputs"], *manifest["outputs"]]
    names = [c_identifier(entry["name"]) for entry in tensors]
    parameters = "".join(f", int64_t {c_identifier(s)}" for s in manifest["symbols"])
    arguments = ", ".join(["model", *names, *map(c_identifier, manifest["symbols"])])
    calls = ["".join(f", {size[symbol]}" for symbol in manifest["symbols"]) for size in sizes]
    allocate = "\n".join(_allocate(entry) for entry in tensors)
    fill = "\n".join(_fill(entry) for entry in manifest["inputs"])
    free = "\n".join(f"    free({n});" for n in names)
    return f"""
#include <stdio.h>
#include <stdlib.h>
#include "{name}.h"

static int once({name} *model{parameters}) {{
{allocate}
{fill}
    int code = {name}_run({arguments});
    if (code)
        fprintf(stderr, "%s\\n", {name}_error(model));
{free}
    return code;
}}

int main(int argc, char **argv) {{
    char error[256];
    {name} *model = argc > 1 ? {name}_create(argv[1], {threads}, error, sizeof error) : NULL;
    if (model == NULL) {{
        fprintf(stderr, "%s\\n", error);
        return 1;
    }}
    int code = 0;
{chr(10).join(f"    code |= once(model{call});" for call in calls)}
    {name}_destroy(model);
    return code != 0;
}}
"""


def _allocate(entry: Mapping[str, Any]) -> str:
    name, type_ = c_identifier(entry["name"]), C_TYPES[entry["dtype"]]
    count = " * ".join(["1", *(f"(size_t)({size})" for size in entry["shape"])])
    return (
        f"    size_t {name}_n = {count};\n    {type_} *{name} = malloc({name}_n * sizeof *{name});"
    )


def _fill(entry: Mapping[str, Any]) -> str:
    name = c_identifier(entry["name"])
    value = "(float)(i % 13) / 6 - 1" if entry["dtype"].startswith("float") else "1"
    return f"    for (size_t i = 0; i < {name}_n; i++)\n        {name}[i] = {value};"


@pytest.mark.parametrize("flags", [ADDRESS, THREAD], ids=["address", "thread"])
def test_runtime(tmp_path: Path, flags: Sequence[str]) -> None:
    folder = write_tiny(tmp_path / "tiny", threads=4)
    run_sanitized(folder, flags, [{"tokens": n} for n in (1, 2, 5, 63, 64)] * 20, threads=4)


def encoder_text_model() -> Any:
    """A small BERT with sizes that are no multiple of any register."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=40,
        num_hidden_layers=2,
        num_attention_heads=5,
        intermediate_size=72,
        max_position_embeddings=32,
    )
    return transformers.BertModel(config).eval()


@pytest.mark.parametrize("target", ["generic", "native"])
@pytest.mark.parametrize("threads", [1, 2])
def test_small_encoder(tmp_path: Path, target: str, threads: int) -> None:
    torch = pytest.importorskip("torch")
    import kaoken

    ids = torch.ones(2, 7, dtype=torch.int64)
    dims = {0: torch.export.Dim("batch", max=3), 1: torch.export.Dim("tokens", max=20)}
    inputs = {"input_ids": ids, "attention_mask": ids}
    kaoken.compile(
        encoder_text_model(),
        (),
        inputs,
        dynamic_shapes=dict.fromkeys(inputs, dims),
        target=target,
        threads=threads,
        out=tmp_path / "bert",
    )
    sizes = [{"batch": b, "tokens": t} for b in (1, 2, 3) for t in (1, 2, 7, 15, 16, 17, 20)]
    flags = ADDRESS if threads == 1 else THREAD
    run_sanitized(tmp_path / "bert", flags, sizes, threads)


def test_a_driver_sees_errors(tmp_path: Path) -> None:
    """The check itself: a model that writes beside its output is caught."""
    folder = write_tiny(tmp_path / "tiny", threads=1)
    source = folder / "tiny.c"
    source.write_text(source.read_text().replace("z[i] = rows", "z[i + tokens] = rows"))
    with pytest.raises((AssertionError, KaokenError), match="heap-buffer-overflow"):
        run_sanitized(folder, ADDRESS, [{"tokens": 3}], threads=1)
