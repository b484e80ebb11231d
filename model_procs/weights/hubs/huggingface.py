"""Files of Hugging Face, by its library `huggingface_hub`. Runs in `voice-engine models pull`.

The library's `hf_hub_download` begins a file anew in each process. Its `http_get`, which that
function uses itself, goes on where a file ends: so the pull calls it. The library knows HF_ENDPOINT
(a mirror), HF_TOKEN, `hf auth login` and the variables for proxies, and obeys a Retry-After.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model_procs.weights.hubs.hub import (
    AccessError,
    Digest,
    HubError,
    MissingError,
    Received,
    RemoteFile,
    UnreachableError,
)
from model_procs.weights.published import PublishedFile

_SHA256 = re.compile(r"[0-9a-f]{64}")
_GIT = re.compile(r"[0-9a-f]{40}")
_CHUNK = 256 << 10
"""Bytes that reach the disk at once. Of the library's 10 MB each broken connection costs some."""
_MISSING = 404
_LATER = (408, 425, 429)
"""Statuses after which the same request may work later, besides those of a server's error."""


class HuggingFace:
    """The hub at `endpoint`, else at HF_ENDPOINT, else at huggingface.co."""

    title = "Hugging Face"

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint

    def describe(self, files: Sequence[PublishedFile]) -> list[RemoteFile]:
        """Ask for the head of each file. Raises `HubError`."""
        found = []
        for file in files:
            try:
                found.append(self._describe(file))
            except MissingError:
                if not file.optional:
                    raise
        return found

    def _describe(self, file: PublishedFile) -> RemoteFile:
        from huggingface_hub import get_hf_file_metadata

        with _errors(f"{file.repository}/{file.path}"):
            found = get_hf_file_metadata(
                self._address(file), endpoint=self._endpoint, retry_on_errors=True
            )
        etag, size, commit = found.etag or "", found.size, found.commit_hash
        if _SHA256.fullmatch(etag):
            digest = Digest("sha256", etag)
        elif _GIT.fullmatch(etag):
            digest = Digest("git", etag)
        else:
            digest = None
        if digest is None or size is None or commit is None:
            raise HubError(
                f"{self._address(file)} has no size, hash and commit: is that Hugging Face, or a "
                "proxy or a mirror (HF_ENDPOINT) that leaves them out?"
            )
        return RemoteFile(file, size, digest, commit)

    def download(self, files: Sequence[RemoteFile], folder: Path, received: Received) -> None:
        """Download one file after the other. Raises `HubError`."""
        for file in files:
            place = folder / file.published.name
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                self._download(file, place, received)

    def _download(self, file: RemoteFile, place: Path, received: Received) -> None:
        from huggingface_hub import constants
        from huggingface_hub.file_download import http_get
        from huggingface_hub.utils._headers import build_hf_headers

        # Another revision of the file has another name here, so that no two are mixed.
        part = place.with_name(f"{place.name}.{file.digest.value[:16]}.incomplete")
        constants.DOWNLOAD_CHUNK_SIZE = _CHUNK
        with part.open("ab") as output:
            if output.tell() > file.size:
                output.truncate(0)
            with _errors(file.source):
                http_get(
                    self._address(file.published),
                    output,
                    resume_size=output.tell(),
                    headers={**build_hf_headers(), "Accept-Encoding": "identity"},
                    expected_size=file.size,
                    displayed_filename=file.published.name,
                    tqdm_class=_bar(received),
                )
        part.rename(place)

    def _address(self, file: PublishedFile) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(
            file.repository, file.path, revision=file.revision, endpoint=self._endpoint
        )


def _bar(received: Received) -> Any:
    """A class of progress bars, as the library wants it, that only tells `received`."""
    from tqdm import tqdm

    class Told(tqdm):  # type: ignore[misc]
        def __init__(self, *_: Any, **__: Any) -> None:
            super().__init__(disable=True)

        def update(self, n: float | None = 1) -> bool | None:
            received(int(n or 0))
            return None

    return Told


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """Turn the errors of the library into ours."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        told = f"Hugging Face answers {status} for {what}"
        if status in (401, 403):
            raise AccessError(told) from error
        if status == _MISSING:
            raise MissingError(told) from error
        if status in _LATER or status >= 500:
            raise UnreachableError(told) from error
        raise HubError(told) from error
    except httpx2.HTTPError as error:
        raise UnreachableError(f"{what}: {type(error).__name__}: {error}") from error
    except OSError as error:
        if error.errno is not None:  # of the disk
            raise
        raise UnreachableError(f"{what}: {error}") from error
