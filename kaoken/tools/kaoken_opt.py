"""`kaoken-opt`: read a module, run passes, print it. All flags are those of `xdsl-opt`.

New weights that passes make (packed layouts, folded constants) are written beside the output:
with `-o out.mlir` into `out.safetensors`, otherwise into kaoken's cache folder.
"""

from __future__ import annotations

import argparse
import os
import sys
from io import StringIO
from pathlib import Path
from typing import IO, ClassVar, NoReturn

from xdsl.dialects.builtin import ModuleOp
from xdsl.xdsl_opt_main import xDSLOptMain

from kaoken.errors import KaokenError
from kaoken.modules import rebase_weights, save_weights, stored_keys, write_text
from kaoken.parsing import KaokenParser
from kaoken.tools.command_line import configure, parse_specs, run_tool
from kaoken.universe import UNIVERSES, all_passes, all_targets
from kaoken.weights import set_base_directory, store_of


class _PendingFile(StringIO):
    """Output that reaches its file only when all went well."""

    def __init__(self) -> None:
        super().__init__()
        self.text: str | None = None

    def close(self) -> None:
        self.text = self.getvalue()
        super().close()


class KaokenOpt(xDSLOptMain):
    """xDSL's driver on the universes of xDSL and kaoken, with weights and short error messages."""

    version_format: ClassVar[str] = "kaoken-opt built on xdsl {xdsl_version}"

    def __init__(self, args: list[str] | None = None) -> None:
        self._pending: _PendingFile | None = None
        self._loaded: frozenset[str] = frozenset()
        super().__init__("Run passes on a module and print it.", args)

    def register_all_dialects(self) -> None:
        for universe in UNIVERSES:
            for name, factory in universe.all_dialects.items():
                self.ctx.register_dialect(name, factory)

    def register_all_passes(self) -> None:
        self.available_passes |= all_passes()

    def register_all_targets(self) -> None:
        self.available_targets |= all_targets()

    def register_all_frontends(self) -> None:
        self.available_frontends["mlir"] = self._read_mlir
        self.available_frontends["pt2"] = self._read_exported

    def register_all_arguments(self, arg_parser: argparse.ArgumentParser) -> None:
        super().register_all_arguments(arg_parser)
        arg_parser.error = _raise_usage_error

    def setup_pipeline(self) -> None:
        specs = parse_specs(self.args.passes)
        for spec in specs:
            configure("pass", spec, self.available_passes)
        target = parse_specs(self.args.target)[0]
        configure("target", target, all_targets())
        super().setup_pipeline()

    def prepare_output(self) -> IO[str]:
        if self.args.output_file is None:
            return sys.stdout
        self._pending = _PendingFile()
        return self._pending

    def get_input_stream(self) -> tuple[IO[bytes], str]:
        if self.args.input_file == "-":
            self.args.input_file = None  # xDSL's way to say stdin
        stream, extension = super().get_input_stream()
        if extension not in self.available_frontends:
            stream.close()
            known = ", ".join(f".{name}" for name in self.available_frontends)
            raise KaokenError(f"{self.args.input_file} is none of the known kinds: {known}")
        return stream, extension

    def run(self) -> None:
        try:
            super().run()
        except UnicodeDecodeError:
            raise KaokenError(f"cannot read {self.get_input_name()}: it is not text") from None
        if self._pending is not None:
            write_text(self.args.output_file, self._pending.text or "")

    def apply_passes(self, prog: ModuleOp) -> None:
        set_base_directory(prog, Path(self.get_input_name()).parent)
        self._loaded = frozenset(store_of(prog).keys())
        super().apply_passes(prog)

    def output_resulting_program(self, prog: ModuleOp) -> str:
        if self.args.target.startswith("mlir"):
            self._settle_weights(prog)
        return super().output_resulting_program(prog)

    def _settle_weights(self, module: ModuleOp) -> None:
        """Make the printed module find its weights again."""
        output = self.args.output_file
        if set(store_of(module).keys()) <= self._loaded:
            if output is not None:
                rebase_weights(module, Path(output).parent)
        elif output is not None and not self.args.split_input_file:
            save_weights(module, Path(output).with_suffix(".safetensors"), Path(output).parent)
        else:
            digest = store_of(module).digest(stored_keys(module))
            file = cache_folder() / f"{digest}.safetensors"
            save_weights(module, file, None)
            print(f"new weights are in {file}", file=sys.stderr)

    def _read_mlir(self, stream: IO[bytes]) -> ModuleOp:
        parser = KaokenParser(self.ctx, stream.read(), self.get_input_name())
        return parser.parse_module(not self.args.no_implicit_module)

    def _read_exported(self, stream: IO[bytes]) -> ModuleOp:
        from kaoken.frontend.load import load_model

        stream.close()
        return load_model(Path(self.args.input_file))


def cache_folder() -> Path:
    """Where weights go that have no output file to lie beside: $KAOKEN_CACHE/weights."""
    root = os.environ.get("KAOKEN_CACHE") or Path.home() / ".cache" / "kaoken"
    folder = Path(root) / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _raise_usage_error(message: str) -> NoReturn:
    raise KaokenError(message)


def main(args: list[str] | None = None) -> None:
    """Entry point of `kaoken-opt`; `args` defaults to those of the process."""
    run_tool(lambda: KaokenOpt(args).run())


if __name__ == "__main__":
    main()
