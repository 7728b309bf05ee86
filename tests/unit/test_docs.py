"""The pages of docs/: what they tell a reader to do works, what they show is what kaoken prints."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.docs_pages import DOCS, ROOT, copy_tree, edits, shell_lines

PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md"]
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
_PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)
_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


def run(line: str, folder: Path, timeout: int = 300) -> str:
    """Run one shell command of a page as a reader would, with the copy's kaoken."""
    cache = {"KAOKEN_CACHE": str(folder / "cache")}
    variables = {**os.environ, "PYTHONPATH": str(folder), "PATH": PATH, **cache}
    done = subprocess.run(
        line, shell=True, cwd=folder, env=variables, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, f"$ {line}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in set(_LINK.findall(page.read_text())):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_index_names_every_page() -> None:
    index = (DOCS / "index.md").read_text()
    names = [page.name for page in PAGES if page.parent == DOCS]
    assert [name for name in names if f"({name})" not in index] == ["index.md"]
    assert "(docs/index.md)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", ["add_an_op.md", "add_a_pass.md"])
def test_what_is_added_works(page: str, tmp_path: Path) -> None:
    copy_tree(tmp_path)
    for edit in edits(DOCS / page):
        edit.apply(tmp_path)
    for line in shell_lines(DOCS / page):
        run(line, tmp_path)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_an_added_target_works(tmp_path: Path) -> None:
    """A part of the page's tests, for time: whole layers through every pass."""
    copy_tree(tmp_path)
    page = DOCS / "add_a_target.md"
    for edit in edits(page):
        edit.apply(tmp_path)
    assert [line.split()[:3] for line in shell_lines(page)] == [["python", "-m", "pytest"]]
    run("python -m pytest -q tests/c/test_stages.py -k 'x86-64-v2 and not bf16'", tmp_path)


def test_use_runs(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "kaoken").symlink_to(ROOT / "kaoken")
    page = DOCS / "use.md"
    (tmp_path / "page.py").write_text("".join(_PYTHON.findall(page.read_text())))
    run("python page.py", tmp_path)
    run(f"python {DOCS / 'encoder.py'} encoder.pt2", tmp_path)
    for line in shell_lines(page):
        if shutil.which("cmake") or not line.startswith(("cmake", "build/")):
            run(line, tmp_path)


def test_use_tells_the_errors_as_they_are(tmp_path: Path) -> None:
    page = (DOCS / "use.md").read_text()
    for command in ("kaoken compile x.mlir -o x --target arm", "kaoken-opt x.mlir -p fuze"):
        (tmp_path / "x.mlir").write_text("")
        done = subprocess.run(
            ["env", *command.split()],
            cwd=tmp_path,
            env={**os.environ, "PATH": PATH},
            capture_output=True,
        )
        assert done.returncode == 1
        assert done.stderr.decode() in page


@pytest.mark.parametrize("page", ["levels.md", "gemm.md"])
def test_ir_is_what_kaoken_prints(page: str) -> None:
    pytest.importorskip("torch")
    sys.path.insert(0, str(DOCS))
    try:
        import make_levels  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.remove(str(DOCS))
    text = (DOCS / page).read_text()
    assert make_levels.page(page) == text, f"docs/{page} is out of date: run `make docs`"


def test_commands_of_levels_run(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    (tmp_path / "kaoken").symlink_to(ROOT / "kaoken")
    (tmp_path / "docs").symlink_to(DOCS)
    for line in shell_lines(DOCS / "levels.md"):
        run(line, tmp_path)
    assert "static void linear_32x64_gelu(" in (tmp_path / "encoder.c").read_text()


def test_commands_of_gemm_run(tmp_path: Path) -> None:
    (tmp_path / "kaoken").symlink_to(ROOT / "kaoken")
    (tmp_path / "docs").symlink_to(DOCS)
    page = DOCS / "gemm.md"
    for line in shell_lines(page):
        run(line, tmp_path)
    steps = (tmp_path / "steps.txt").read_text()
    for name in ("bake", "lower-to-loops", "tile", "reorder", "vectorize", "parallelize"):
        assert f"IR after {name}:" in steps
    assert "static void linear_768x3072(" in (tmp_path / "gemm.c").read_text()
    assert "acc_2[2][4]" in (tmp_path / "gemm" / "gemm.c").read_text()
    (schedule,) = re.findall("```schedule\n(.*?)```", page.read_text(), re.DOTALL)
    assert (DOCS / "gemm.schedule").read_text().endswith(schedule)
