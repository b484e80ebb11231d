"""The examples in README.md and in the API's pages, run as they stand there against a service."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.support.node import PACKAGE, compile_typescript, run
from tests.support.service import MINIMAL, ROOT, RunningService, running

_BLOCK = re.compile(r"^```(bash|python|typescript)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ADDRESS = "http://localhost:8000"


def examples(language: str) -> list[ParameterSet]:
    """The blocks of one language, each named for where it stands."""
    found = []
    for name in ("README.md", "docs/api.md", "docs/live.md"):
        text = (ROOT / name).read_text("utf-8")
        for block in _BLOCK.finditer(text):
            if block[1] == language:
                line = text.count("\n", 0, block.start()) + 1
                found.append(pytest.param(block[2], id=f"{name}:{line}"))
    return found


@pytest.fixture(scope="module")
def service() -> Iterator[RunningService]:
    with running(MINIMAL) as it:
        it.wait_ready()
        yield it


@pytest.fixture
def folder(tmp_path: Path, service: RunningService) -> Path:
    """Where an example runs: with the recording that they all send, and the voice that they use.

    Some examples register or delete that voice, and no test knows which one ran before it.
    """
    text = "Hello, this is my voice, as I speak every day."
    subprocess.run(["flite", "-t", text, "-o", str(tmp_path / "me.wav")], check=True)
    (tmp_path / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
    register = f"curl -F voice_id=anna -F audio=@me.wav {service.url}/v1/voices/register"
    run(["bash", "-euc", register], {"CURL_HOME": str(tmp_path)}, tmp_path)
    return tmp_path


@pytest.mark.parametrize("example", examples("bash"))
def test_curl(service: RunningService, folder: Path, example: str) -> None:
    run(
        ["bash", "-euc", example.replace(_ADDRESS, service.url)], {"CURL_HOME": str(folder)}, folder
    )


@pytest.mark.parametrize("example", examples("python"))
def test_python(service: RunningService, folder: Path, example: str) -> None:
    run(
        [sys.executable, "-c", example.replace(_ADDRESS, service.url)],
        {"CURL_HOME": str(folder)},
        folder,
    )


def test_typescript(service: RunningService, folder: Path) -> None:
    sources, out = folder / "sources", folder / "out"
    sources.mkdir()
    out.mkdir()
    blocks = [str(parameters.values[0]) for parameters in examples("typescript")]
    names = [f"example{number}" for number, _ in enumerate(blocks)]
    for name, block in zip(names, blocks, strict=True):
        text = block.replace(_ADDRESS, service.url)
        (sources / f"{name}.ts").write_text(f"{text}\nexport {{}};\n")
    own = json.loads((PACKAGE / "tsconfig.json").read_text())["compilerOptions"]
    types = {"typeRoots": [str(PACKAGE / "node_modules" / "@types")]}
    config = {"compilerOptions": own | types, "include": ["*.ts"]}
    (sources / "tsconfig.json").write_text(json.dumps(config))
    (sources / "package.json").write_text('{"type": "module"}')
    (sources / "node_modules").symlink_to(PACKAGE / "node_modules")
    compile_typescript(sources / "tsconfig.json", out)
    for name in names:
        run(["node", str(out / f"{name}.js")], folder=folder)
