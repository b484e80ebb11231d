"""A bucket of an S3 object store, through the library obstore. Runs in the front.

Only this module knows the library, and imports it when a bucket is opened. The endpoint and the
credentials come from the usual variables (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...). What is
logged or raised has neither of them: servers repeat parts of a request in their errors.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from supervisor.settings import BUCKET_URL
from supervisor.threads import in_thread

if TYPE_CHECKING:
    from obstore import UpdateVersion
    from obstore.store import S3Store

NEW = ""
"""As `only` of a put: the object must not be there yet. No object has this tag."""

_SMALL_SECONDS = 4.0
"""The longest time for a request without a recording or an encoded voice."""

_LARGE_SECONDS = 60.0
"""The same for one with a recording or an encoded voice."""

_STALL_SECONDS = 5.0
"""A connection that brings nothing for so long is given up."""

_CONNECT_SECONDS = 2.0
_PIECE = 1024 * 1024
_PARTS = 2
"""How many parts of a large file, of 5 MB each, are in memory at the same time."""


class BucketError(OSError):
    """The bucket cannot be used now: it is unreachable, too slow, or refuses."""


class ChangedMeanwhileError(Exception):
    """A conditional put found another object than it was for, or one where there must be none."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object in the bucket. `modified` is Unix time by the clock of the bucket's server."""

    path: str
    tag: str
    size: int
    modified: float


class Bucket:
    """The objects below a URL. Raises `BucketError`; blocks nothing.

    A request without a recording or an encoded voice takes at most `seconds`.
    """

    def __init__(self, url: str, *, seconds: float = _SMALL_SECONDS) -> None:
        from obstore.store import S3Store

        match = BUCKET_URL.fullmatch(url)
        if match is None:
            raise ValueError("it is not the URL of a bucket; write s3://bucket/prefix")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")
        known_region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")

        def store(longest: float) -> S3Store:
            return S3Store(
                match["bucket"],
                prefix=match["prefix"].strip("/") or None,
                config={} if known_region else {"region": "us-east-1"},
                client_options={
                    "allow_http": endpoint.startswith("http://"),
                    "connect_timeout": timedelta(seconds=_CONNECT_SECONDS),
                    "read_timeout": timedelta(seconds=min(_STALL_SECONDS, seconds)),
                    "timeout": timedelta(seconds=longest),
                },
                retry_config={
                    "max_retries": 2,
                    "retry_timeout": timedelta(seconds=longest / 2),
                    "backoff": {
                        "init_backoff": timedelta(seconds=0.05),
                        "max_backoff": timedelta(seconds=0.5),
                        "base": 2,
                    },
                },
            )

        self._seconds = seconds
        self._small = store(seconds)
        self._large = store(max(seconds, _LARGE_SECONDS))

    async def get(self, path: str, limit: int) -> tuple[bytes, str] | None:
        """An object and its tag; None if there is none. Of a larger one the first `limit` bytes."""
        import obstore

        async with _asking(self._seconds):
            try:
                result = await obstore.get_async(self._small, path)
                tag = result.meta["e_tag"] or ""
                if result.meta["size"] <= limit:
                    return bytes(await result.bytes_async()), tag
                content = b""
                async for piece in result.stream(min_chunk_size=limit):
                    content += bytes(piece)
                    if len(content) >= limit:
                        break
                return content[:limit], tag
            except FileNotFoundError:
                return None

    async def head(self, path: str) -> Stored | None:
        """What is known of an object; None if there is none."""
        import obstore

        async with _asking(self._seconds):
            try:
                return _stored(await obstore.head_async(self._small, path))
            except FileNotFoundError:
                return None

    async def put(self, path: str, data: bytes | Path, *, only: str | None = None) -> str:
        """Store bytes, or a file, whole or not at all; returns the object's tag.

        `only`: it must replace the object with this tag, or be `NEW`. Raises
        `ChangedMeanwhileError`.
        """
        import obstore

        large = isinstance(data, Path)
        mode: UpdateVersion | Any = None
        if only is not None:
            mode = "create" if only == NEW else {"e_tag": only}
        async with _asking(_LARGE_SECONDS if large else self._seconds):
            try:
                result = await obstore.put_async(
                    self._large if large else self._small,
                    path,
                    data,
                    mode=mode,
                    max_concurrency=_PARTS,
                )
            except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError):
                raise ChangedMeanwhileError(path) from None
            except FileNotFoundError:
                if only and not large:  # what it was to replace is gone
                    raise ChangedMeanwhileError(path) from None
                raise
            return result["e_tag"] or ""

    async def objects(self, prefix: str) -> list[Stored]:
        """All objects whose path begins with `prefix` and a slash."""
        import obstore

        async with _asking(self._seconds):
            return [
                _stored(each) for each in await obstore.list(self._small, prefix).collect_async()
            ]

    async def folders(self, prefix: str) -> list[str]:
        """The names of the folders in `prefix`."""
        import obstore

        async with _asking(self._seconds):
            found = await obstore.list_with_delimiter_async(self._small, prefix)
            return [each.rstrip("/").rpartition("/")[2] for each in found["common_prefixes"]]

    async def delete(self, path: str) -> None:
        """Delete an object; there need be none."""
        import obstore

        async with _asking(self._seconds):
            with contextlib.suppress(FileNotFoundError):
                await obstore.delete_async(self._small, path)

    async def fetch(self, path: str, file: BinaryIO, limit: int) -> bool:
        """Write an object to `file`; False if there is none. A larger one raises `ValueError`."""
        import obstore

        async with _asking(_LARGE_SECONDS):
            try:
                result = await obstore.get_async(self._large, path)
            except FileNotFoundError:
                return False
            if result.meta["size"] > limit:
                raise ValueError(f"it has {result.meta['size']} bytes")
            async for piece in result.stream(min_chunk_size=_PIECE):
                data = bytes(piece)
                await in_thread(lambda data=data: file.write(data))  # type: ignore[misc]
            return True


@contextlib.asynccontextmanager
async def _asking(seconds: float) -> AsyncIterator[None]:
    """Errors of the library as ours; gives up a little later than the library would."""
    import obstore

    try:
        async with asyncio.timeout(seconds + 1):
            yield
    except TimeoutError:
        raise BucketError(f"no answer within {seconds:g} s") from None
    except (obstore.exceptions.BaseError, OSError) as error:
        if isinstance(error, BucketError):
            raise
        raise BucketError(told(str(error))) from None


def told(error: str) -> str:
    """What an error of the library says, without URLs and without what the server has sent."""
    line = error.partition("\n")[0].partition("<")[0]
    said = line.rpartition(" - ")[2].strip().rstrip(":")
    return re.sub(r"\w+://\S+", "the server", said)[:200]


def _stored(meta: Mapping[str, Any]) -> Stored:
    return Stored(
        meta["path"], meta["e_tag"] or "", meta["size"], meta["last_modified"].timestamp()
    )
