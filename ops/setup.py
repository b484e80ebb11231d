"""Make .venv: a CPU torch, then everything else at the versions in constraints.txt.

The neural default engines come in packages of their own, which SLIM=1 leaves out. One that cannot
be had is left out too, with one line that says so.

With --dev it also installs the tools for tests and checks, and the packages of tests/js at the
versions in its package-lock.json. The Python clients that tests use get a .venv-clients of their
own, because their dependencies do not agree with those of the service.

It runs before anything is installed, so it uses the standard library only. ops/setup.sh calls it on
a machine, the Dockerfile in an image. It does nothing when nothing changed. After an interrupted
run it continues where that run stopped.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

_CHECK = """
import importlib.metadata, sys
import torch
cuda = sorted(
    name
    for name in {dist.name for dist in importlib.metadata.distributions()}
    if name.lower().startswith(("nvidia-", "cuda-", "triton"))
)
if torch.version.cuda is not None:
    cuda.append("torch " + torch.__version__)
sys.exit(f"CUDA packages are installed: {', '.join(cuda)}" if cuda else 0)
"""


class SetupError(Exception):
    """Setup cannot go on; the message says what to do."""


NEURAL = {"kokoro": "flite", "whisper": "pocketsphinx"}
"""The neural engines, whose extras in pyproject.toml have their names, and who serves without."""


class Checkout:
    """The checkout at `root` and its .venv.

    `extra` is "" or "dev" (test and lint tools); with `slim` the neural engines are left out.
    """

    def __init__(self, root: Path, extra: str = "", *, slim: bool = False) -> None:
        self.root = root
        self.extra = extra
        self.slim = slim
        self.venv = root / ".venv"
        self.python = self.venv / "bin" / "python"
        self.stamp = self.venv / "setup-stamp"

    def venv_version(self) -> str | None:
        """The version of .venv's Python, or None when it cannot be used."""
        # pip is installed last when a venv is made, so a venv with pip is complete.
        code = "import importlib.metadata as m, sys; m.version('pip'); print(sys.version)"
        try:
            done = subprocess.run(
                [self.python, "-c", code], capture_output=True, text=True, check=False
            )
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    def key(self, version: str, extra: str | None = None, *, slim: bool | None = None) -> str:
        """A digest of all that .venv's content depends on; arguments replace the checkout's own."""
        # The path is part of it because scripts in .venv/bin have the full path of the interpreter.
        extra = self.extra if extra is None else extra
        slim = self.slim if slim is None else slim
        parts = [version.encode(), str(self.root).encode(), extra.encode(), str(slim).encode()]
        parts += [
            (self.root / name).read_bytes()
            for name in ("pyproject.toml", "constraints.txt", "ops/setup.py")
        ]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    def up_to_date(self) -> bool:
        """Whether .venv works and has what the files ask for; it may have more than that.

        A neural engine that could not be had is not looked for again at each start.
        """
        version = self.venv_version()
        if version is None or not self.stamp.is_file():
            return False
        return self.stamp.read_text() in {
            self.key(version, extra, slim=slim)
            for extra in {self.extra, "dev"}
            for slim in {self.slim, False}
        }

    def make_venv(self) -> None:
        """Make .venv, with nothing but pip in it, unless there is one that works."""
        if self.venv_version() is None:
            _say("making .venv")
            self._run([sys.executable, "-m", "venv", "--clear", str(self.venv)], "making .venv")

    def install(self) -> None:
        """Install into .venv what the files ask for."""
        self.make_venv()
        self.stamp.unlink(missing_ok=True)
        self._forget_half_installed()
        self._install_torch()
        _say("installing everything else")
        self._install_everything_else()
        self._run([str(self.python), "-c", _CHECK], "checking for CUDA packages")
        version = self.venv_version()
        if version is None:
            raise SetupError(f"{self.python} does not run; remove .venv and try again")
        # Replaced in one step, so that no half-written stamp is ever read.
        new = self.stamp.with_suffix(".new")
        new.write_text(self.key(version))
        new.replace(self.stamp)

    def install_node_packages(self) -> bool:
        """Install what the lock file of tests/js asks for. Returns whether that was necessary."""
        folder = self.root / "tests" / "js"
        lock = folder / "package-lock.json"
        stamp = folder / "node_modules" / ".setup-stamp"
        npm = shutil.which("npm")
        if npm is None or not lock.is_file():
            return False  # ops/setup.sh has already said what is missing
        wanted = lock.read_bytes()
        if stamp.is_file() and stamp.read_bytes() == wanted:
            return False
        _say("installing the packages of tests/js")
        # npm ci first removes node_modules, so an interrupted run leaves no stamp.
        self._run([npm, "ci", "--loglevel=error", "--prefix", str(folder)], "npm ci in tests/js")
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_bytes(wanted)
        return True

    def install_python_clients(self) -> bool:
        """Install the clients of tests/clients/python. Returns whether that was necessary."""
        requirements = self.root / "tests" / "clients" / "python" / "requirements.txt"
        venv = self.root / ".venv-clients"
        stamp = venv / "setup-stamp"
        version = self.venv_version()
        if version is None or not requirements.is_file():
            return False
        parts = [version.encode(), str(venv).encode(), requirements.read_bytes()]
        wanted = hashlib.sha256(b"\0".join(parts)).hexdigest()
        if stamp.is_file() and stamp.read_text() == wanted:
            return False
        _say("making .venv-clients for the Python clients that tests use")
        # Made anew, so nothing is left of an older list or of an interrupted run.
        self._run([str(self.python), "-m", "venv", "--clear", str(venv)], "making .venv-clients")
        self._pip(
            *("install", "--no-deps", "--no-compile", "--only-binary", ":all:"),
            *("--ignore-requires-python", "--requirement", str(requirements)),
            python=venv / "bin" / "python",
            pinned=False,
        )
        stamp.write_text(wanted)
        return True

    def _install_torch(self) -> None:
        if sys.platform == "darwin":
            return  # every torch for macOS is a CPU torch
        pins = read_pins(self.root / "constraints.txt")
        wanted = f"torch=={pins['torch']}+cpu"
        _say(f"installing {wanted}")
        try:
            # This is enough if pip's index has a CPU build, or if it is installed already.
            # Otherwise it fails within seconds, because the default index has only CUDA builds.
            self._pip("install", "--retries", "1", "--no-deps", wanted, quiet=True)
        except SetupError:
            # uv knows where the PyTorch project keeps its CPU builds; pip does not.
            self._pip("install", "uv")
            uv = [str(self.python), "-m", "uv", "pip", "install", "--python", str(self.python)]
            torch = f"torch=={pins['torch']}"
            self._run([*uv, "--no-deps", "--torch-backend", "cpu", torch], f"installing {torch}")

    def _install_everything_else(self) -> None:
        """All at once if that works; else without those neural engines that cannot be had."""
        wanted = [self.extra] if self.extra else []
        if not self.slim:
            try:
                self._pip("install", "--editable", _ours([*wanted, *NEURAL]), quiet=True)
            except SetupError:
                pass  # an engine that is missing, or a fault that the next line shows
            else:
                return
        self._pip("install", "--editable", _ours(wanted))
        if self.slim:
            return
        for engine, instead in NEURAL.items():
            try:
                self._pip("install", "--editable", _ours([*wanted, engine]), quiet=True)
            except SetupError:
                _say(
                    f"the packages of {engine} cannot be installed, so {instead} serves instead; "
                    "to try again, remove .venv/setup-stamp and run this again"
                )

    def _pip(
        self,
        *arguments: str,
        quiet: bool = False,
        python: Path | None = None,
        pinned: bool = True,
    ) -> None:
        pip = [str(python or self.python), "-m", "pip", "--disable-pip-version-check"]
        command = [*pip, *arguments]
        if not sys.stdout.isatty():
            command.append("--quiet")
        self._run(command, f"pip {' '.join(arguments)}", quiet=quiet, pinned=pinned)

    def _run(
        self, command: Sequence[str], what: str, *, quiet: bool = False, pinned: bool = True
    ) -> None:
        # Set as environment variables, because pip passes them on to the environments where it
        # builds packages, and every pip ignores variables that it does not know. Older pips use
        # PEP 517 only if they are told to.
        pins = {
            "PIP_CONSTRAINT": "constraints.txt",
            "PIP_BUILD_CONSTRAINT": "constraints.txt",
            "PIP_USE_PEP517": "1",
        }
        done = subprocess.run(
            command,
            cwd=self.root,
            env=os.environ | pins if pinned else None,
            stderr=subprocess.DEVNULL if quiet else None,
            check=False,
        )
        if done.returncode != 0:
            raise SetupError(f"{what} failed; fix what it says above and run this again")

    def size_mb(self) -> int:
        """Megabytes of disk that .venv takes."""
        blocks = sum(
            os.lstat(os.path.join(folder, name)).st_blocks
            for folder, _, files in os.walk(self.venv)
            for name in files
        )
        return blocks * 512 // 1_000_000

    def _forget_half_installed(self) -> None:
        """Remove packages that an interrupted run left incomplete, so that pip reinstalls them."""
        # pip writes RECORD last, but a package counts as installed as soon as METADATA exists.
        for info in self.venv.glob("lib/python*/site-packages/*.dist-info"):
            if not (info / "RECORD").is_file():
                shutil.rmtree(info)


def _ours(extras: Sequence[str]) -> str:
    """What pip calls this checkout with some of its extras."""
    return f".[{','.join(extras)}]" if extras else "."


def read_pins(path: Path) -> dict[str, str]:
    """The versions in a constraints file by lower-case package name."""
    lines = path.read_text().splitlines()
    matches = (re.fullmatch(r"([\w.-]+)==(\S+)", line) for line in lines)
    return {match[1].lower(): match[2] for match in matches if match}


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let only one setup of this folder run: `make run` and `make test` may start together."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another setup is running in this folder, waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _say(text: str) -> None:
    print(f"setup: {text}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Set up the checkout that this file is in; returns the exit code."""
    parser = argparse.ArgumentParser(description="Make .venv with everything at its pinned version")
    parser.add_argument("--dev", action="store_true", help="also the tools for tests and checks")
    options = parser.parse_args(arguments)
    checkout = Checkout(
        Path(__file__).resolve().parent.parent,
        "dev" if options.dev else "",
        slim=os.environ.get("SLIM", "").lower() not in ("", "0", "no", "false"),
    )
    started = time.monotonic()
    try:
        with _locked(checkout.root):
            changed = not checkout.up_to_date()
            if changed:
                checkout.make_venv()
            # What only tests need goes into folders of its own, at the same time.
            with ThreadPoolExecutor() as pool:
                others = [checkout.install_node_packages, checkout.install_python_clients]
                installing = [pool.submit(install) for install in others if options.dev]
                if changed:
                    checkout.install()
            for other in installing:
                changed |= other.result()
            if changed:
                _say(f"done in {time.monotonic() - started:.0f} s, {checkout.size_mb()} MB")
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("setup: interrupted; run it again to continue", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
