"""Files of ModelScope, by its library `modelscope_hub`. Runs in `voice-engine models pull`.

The library goes on where a file ends, also in another process, and compares hashes with those of
the hub's list of files. It knows MODELSCOPE_ENDPOINT (or MODELSCOPE_DOMAIN), MODELSCOPE_API_TOKEN
and the variables for proxies, and obeys a Retry-After.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model_procs.weights.hubs.hub import (
    AccessError,
    ChecksumError,
    Digest,
    HubError,
    Received,
    RemoteFile,
    UnreachableError,
)
from model_procs.weights.published import PublishedFile

_CACHE = ".modelscope"
"""The library's locks, in the folder that it downloads into."""


class ModelScope:
    """The hub at `endpoint`, else at MODELSCOPE_ENDPOINT, else modelscope.cn or modelscope.ai."""

    title = "ModelScope"

    def __init__(self, endpoint: str | None = None) -> None:
        self._endpoint = endpoint

    def describe(self, files: Sequence[PublishedFile]) -> list[RemoteFile]:
        """Ask for the list of the repository's files. Raises `HubError`."""
        from modelscope_hub import HubApi

        repository, revision = _same(files)
        with _errors(repository):
            self._endpoint = self._endpoint or HubApi().resolve_endpoint_for_read(repository)
            api = HubApi(endpoint=self._endpoint)
            listed = {
                each.path: each
                for each in api.list_repo_files(repository, "model", revision=revision)
            }
        described = []
        for file in files:
            found = listed.get(file.path)
            if found is None or not found.sha256:
                raise HubError(f"ModelScope lists no {file.path} with its hash in {repository}")
            digest = Digest("sha256", found.sha256.lower())
            described.append(RemoteFile(file, found.size, digest, revision))
        return described

    def download(self, files: Sequence[RemoteFile], folder: Path, received: Received) -> None:
        """Have the library bring all files. Raises `HubError`."""
        from modelscope_hub.compat import snapshot_download

        missing = [each.published for each in files if not (folder / each.published.name).exists()]
        if not missing:
            return
        repository, revision = _same(missing)
        with _errors(repository):
            snapshot_download(
                repository,
                revision=revision,
                local_dir=str(folder),
                cache_dir=str(folder / _CACHE),
                allow_patterns=[file.path for file in missing],
                max_workers=1,  # one after the other, like the other hub
                progress_callbacks=[_callback(received)],
                endpoint=self._endpoint,
            )


def _same(files: Sequence[PublishedFile]) -> tuple[str, str]:
    """Repository and revision, which all files share; each lies there as it will here."""
    ((repository, revision),) = {(file.repository, file.revision) for file in files}
    assert all(file.name == file.path for file in files)
    return repository, revision


def _callback(received: Received) -> Any:
    """A class of callbacks, as the library wants it: an object for each file."""
    from modelscope_hub import ProgressCallback

    class Told(ProgressCallback):
        def update(self, size: int) -> None:
            received(size)

    return Told


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """Turn the errors of the library into ours."""
    from modelscope_hub import errors as library

    try:
        yield
    except library.FileDownloadError as error:
        raise _worst(error.failed_files.values(), what) from error
    except (library.HubError, OSError) as error:  # those of `requests` are such
        raise _of(error, what) from error


def _worst(errors: Any, what: str) -> HubError:
    """The error to tell when several files have failed: the one that will not pass by itself."""
    found = [_of(error, what) for error in errors]
    return min(found, key=lambda error: isinstance(error, UnreachableError))


def _of(error: BaseException, what: str) -> HubError:
    from modelscope_hub import errors as library

    told = f"ModelScope, {what}: {error}"
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    if isinstance(error, OSError) and error.errno is not None and status is None:
        raise error  # of the disk
    if status in (401, 403):
        return AccessError(told)
    if isinstance(error, library.FileIntegrityError):
        return ChecksumError(told)
    passing = (
        library.NetworkError,
        library.ServerError,
        library.RateLimitError,
        OSError,
    )
    if isinstance(error, passing) or getattr(error, "retryable", False):
        return UnreachableError(told)
    return HubError(told)
