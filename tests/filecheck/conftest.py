"""Collects .mlir and .py files that hold `RUN:` lines, and runs them as lit would.

A RUN line is a pipe of commands; `%s` is the test file, `%t` a path for temporary files (its
folder exists), and a line that ends in a backslash goes on. kaoken's tools, xdsl-opt and filecheck
run inside this process, which saves their start; `python` and anything else is a subprocess.
`not` before a command turns its exit code around; `2>&1` after it joins stderr to stdout.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

TIMEOUT = 120
"""Seconds for one test file."""

_RUN = re.compile(r"^\s*(?://|#)\s*RUN:\s*(.*)$", re.MULTILINE)


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    if file_path.suffix not in (".mlir", ".py") or file_path.name == "conftest.py":
        return None
    if _RUN.search(file_path.read_text()):
        return RunFile.from_parent(parent, path=file_path)
    return None


class RunFile(pytest.File):
    """A file of RUN lines: one test."""

    def collect(self) -> Iterable[pytest.Item]:
        yield RunItem.from_parent(self, name="RUN")


class RunItem(pytest.Item):
    """All RUN lines of one file, in order."""

    def runtest(self) -> None:
        folder = self.config.rootpath / ".pytest_cache" / "filecheck"
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / re.sub(r"\W", "_", self.nodeid)
        with _time_limit(TIMEOUT):
            for line in _run_lines(self.path.read_text()):
                _run_line(line, {"%s": str(self.path), "%t": str(temporary)})

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        if isinstance(excinfo.value, RunFailed):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, str(self.path.relative_to(self.config.rootpath))


class RunFailed(Exception):
    """A RUN line did not do what it should; the text shows the line and all output."""


@dataclass
class Output:
    code: int
    stdout: str
    stderr: str


def _run_lines(text: str) -> Iterator[str]:
    whole = ""
    for part in _RUN.findall(text):
        whole += part.strip()
        if whole.endswith("\\"):
            whole = whole[:-1]
            continue
        yield whole
        whole = ""


def _run_line(line: str, substitutions: dict[str, str]) -> None:
    stdin, shown = "", ""
    for command in _split_pipe(line):
        words = [_substitute(word, substitutions) for word in command]
        expect_failure = words[0] == "not"
        join = words[-1] == "2>&1"
        output = _run(words[expect_failure : len(words) - join], stdin)
        shown += f"\n$ {' '.join(words)}\n{output.stderr}"
        if (output.code != 0) != expect_failure:
            wanted = "a failure" if expect_failure else "0"
            raise RunFailed(
                f"RUN: {line}\n{shown}\nexit code {output.code}, not {wanted}\n"
                f"-- stdin --\n{stdin}\n-- stdout --\n{output.stdout}"
            )
        stdin = output.stdout + (output.stderr if join else "")


def _split_pipe(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|")
    lexer.whitespace_split = True
    lexer.commenters = ""
    command: list[str] = []
    for word in lexer:
        if word == "|":
            yield command
            command = []
        else:
            command.append(word)
    yield command


def _substitute(word: str, substitutions: dict[str, str]) -> str:
    for name, value in substitutions.items():
        word = re.sub(rf"{name}\b", lambda _, value=value: value, word)
    return word


def _run(words: list[str], stdin: str) -> Output:
    tool = _TOOLS.get(words[0])
    if tool is not None and "--disable-verify" not in words:
        return _run_here(lambda: tool(words[1:]), stdin)
    if words[0] == "python":
        words = [sys.executable, *words[1:]]
    elif (beside := Path(sys.executable).with_name(words[0])).exists():
        words = [str(beside), *words[1:]]
    done = subprocess.run(words, input=stdin, capture_output=True, text=True, timeout=TIMEOUT)
    return Output(done.returncode, done.stdout, done.stderr)


def _run_here(tool: Callable[[], None], stdin: str) -> Output:
    out, err = io.StringIO(), io.StringIO()
    before = sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8")
    code = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            tool()
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
    finally:
        sys.stdin = before
    return Output(code, out.getvalue(), err.getvalue())


def _kaoken_opt(args: list[str]) -> None:
    from kaoken.tools.kaoken_opt import main

    main(args)


def _kaoken_translate(args: list[str]) -> None:
    from kaoken.tools.kaoken_translate import main

    main(args)


def _filecheck(args: list[str]) -> None:
    from filecheck.matcher import Matcher
    from filecheck.options import parse_argv_options

    sys.exit(Matcher.from_opts(parse_argv_options(["filecheck", *args])).run())


_TOOLS: dict[str, Callable[[list[str]], None]] = {
    "kaoken-opt": _kaoken_opt,
    "kaoken-translate": _kaoken_translate,
    "filecheck": _filecheck,
}


@contextlib.contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise RunFailed(f"it took more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
