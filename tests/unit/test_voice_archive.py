"""Archives of voices: what is written comes back, and of a stranger's nothing else is taken."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc.errors import ErrorCode, ServiceError
from supervisor.voices import archive
from supervisor.voices.store import Voice

FIRST, SECOND = b"RIFF" + bytes(700), b"OggS" * 128
CREATED = "2026-11-20T10:00:00+00:00"


def voice(*recordings: bytes, **facts: Any) -> Voice:
    data = b"".join(recordings)
    given = {
        "id": "anna",
        "name": "Änna",
        "key": hashlib.sha256(data).hexdigest(),
        "media_type": "audio/wav",
        "size": len(data),
        "parts": tuple(map(len, recordings)) if len(recordings) > 1 else (),
        "seconds": 1.5,
        "consent": "Anna, by mail",
        "created": CREATED,
        "owner": "secret-name",
    }
    return Voice.model_validate(given | facts)


def written(voice: Voice, *recordings: bytes) -> bytes:
    """The archive, put together as the route does."""
    head = archive.head_of(voice, io.BytesIO(b"".join(recordings)))
    data = head
    for number, recording in enumerate(recordings):
        data += archive.header(number, len(recording)) + recording
        data += archive.padding(len(recording))
    data += archive.END
    assert len(data) == archive.archive_size(voice, head)
    return data


def read(data: bytes, limit: int = 1 << 20) -> tuple[archive.VoiceFacts, list[bytes]]:
    file = io.BytesIO(data)
    facts, spans = archive.read_archive(file, len(data), limit)
    return facts, [b"".join(archive.blocks(file, span)) for span in spans]


@pytest.mark.parametrize("recordings", [(FIRST,), (SECOND,), (FIRST, SECOND, b"x")], ids=len)
def test_what_is_written_comes_back(recordings: tuple[bytes, ...]) -> None:
    data = written(voice(*recordings), *recordings)
    facts, found = read(data)
    assert found == list(recordings)
    assert (facts.id, facts.name, facts.consent) == ("anna", "Änna", "Anna, by mail")
    assert facts.created == CREATED
    assert b"secret-name" not in data
    assert data == written(voice(*recordings, owner=None, seconds=9.0), *recordings)


def test_any_program_can_unpack_it() -> None:
    with tarfile.open(fileobj=io.BytesIO(written(voice(FIRST, SECOND), FIRST, SECOND))) as tar:
        assert tar.getnames() == ["voice.json", "recordings/1", "recordings/2"]
        assert all(member.isfile() and member.mode == 0o600 for member in tar)
        unpacked = [tar.extractfile(name) for name in tar.getnames()]
        contents = [file.read() for file in unpacked if file is not None]
    assert contents[1:] == [FIRST, SECOND]
    hashes = [each["sha256"] for each in json.loads(contents[0])["recordings"]]
    assert hashes == [hashlib.sha256(each).hexdigest() for each in (FIRST, SECOND)]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_it_may_be_packed_again_by_others(form: int) -> None:
    assert read(packed(facts(FIRST), FIRST, form=form))[1] == [FIRST]


def facts(*recordings: bytes, **changes: Any) -> dict[str, Any]:
    return {
        "format": "voice-engine voice",
        "version": 1,
        "id": "anna",
        "name": "Anna",
        "created": CREATED,
        "recordings": [
            {"size": len(each), "sha256": hashlib.sha256(each).hexdigest()} for each in recordings
        ],
    } | changes


def packed(
    told: Any,
    *recordings: bytes,
    names: list[str] | None = None,
    form: int = tarfile.USTAR_FORMAT,
    kind: bytes = tarfile.REGTYPE,
    link: str = "",
) -> bytes:
    """A tar by Python's own library."""
    names = names or [f"recordings/{number + 1}" for number in range(len(recordings))]
    file = io.BytesIO()
    text = told if isinstance(told, bytes) else json.dumps(told).encode()
    with tarfile.open(fileobj=file, mode="w", format=form) as tar:
        for name, data in zip(["voice.json", *names], [text, *recordings], strict=True):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            if name != "voice.json":
                member.type, member.linkname = kind, link
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def damaged(data: bytes, place: int, value: bytes) -> bytes:
    return data[:place] + value + data[place + len(value) :]


GOOD = packed(facts(FIRST), FIRST)
HUGE = tarfile.TarInfo("voice.json")
HUGE.size = 8**11 - 1

BROKEN = {
    "empty": b"",
    "no tar": b"hello" * 1000,
    "a zip": b"PK\3\4" + bytes(2000),
    "zeros": bytes(10_240),
    "another name": packed(facts(FIRST), FIRST, names=["recordings/2"]),
    "a path": packed(facts(FIRST), FIRST, names=["../../etc/passwd"]),
    "an absolute path": packed(facts(FIRST), FIRST, names=["/recordings/1"]),
    "a link": packed(facts(FIRST), FIRST, kind=tarfile.SYMTYPE, link="/etc/passwd"),
    "a hard link": packed(facts(FIRST), FIRST, kind=tarfile.LNKTYPE, link="voice.json"),
    "a device": packed(facts(FIRST), FIRST, kind=tarfile.CHRTYPE),
    "a sparse file": packed(facts(FIRST), FIRST, kind=tarfile.GNUTYPE_SPARSE),
    "a long name": packed(facts(FIRST), FIRST, names=["r" * 300], form=tarfile.GNU_FORMAT),
    "an extended header": packed(facts(FIRST), FIRST, names=["ä" * 60], form=tarfile.PAX_FORMAT),
    "more files": packed(facts(FIRST), FIRST, SECOND),
    "fewer files": packed(facts(FIRST, SECOND), FIRST),
    "in another order": packed(facts(SECOND, FIRST), FIRST, SECOND),
    "another size": packed(facts(FIRST + b"x"), FIRST),
    "another hash": packed(facts(FIRST), b"x" * len(FIRST)),
    "an empty recording": packed(facts(b""), b""),
    "no recording": packed(facts()),
    "26 recordings": packed(facts(*[b"x"] * 26), *[b"x"] * 26),
    "no JSON": packed(b"{", FIRST),
    "no object": packed([1], FIRST),
    "deep JSON": packed(b"[" * 60_000, FIRST),
    "large JSON": packed(facts(FIRST, consent="x" * 65_000), FIRST),
    "another version": packed(facts(FIRST, version=2), FIRST),
    "another format": packed(facts(FIRST, format="x"), FIRST),
    "an unknown fact": packed(facts(FIRST, owner="ben"), FIRST),
    "an id with a path": packed(facts(FIRST, id="../a"), FIRST),
    "no time": packed(facts(FIRST, created="yesterday"), FIRST),
    "a time without an offset": packed(facts(FIRST, created="2026-11-20T10:00:00"), FIRST),
    "a surrogate": packed(json.dumps(facts(FIRST, name="\ud800")).encode(), FIRST),
    "a huge file": HUGE.tobuf(tarfile.USTAR_FORMAT) + bytes(1024),
    "a damaged size": damaged(GOOD, 124, b"9"),
    "a base-256 size": damaged(GOOD, 124, b"\x80"),
    "no sum": damaged(GOOD, 148, bytes(8)),
    "a byte behind the end": GOOD + b"x",
    "zeros without end": GOOD + bytes(20_480),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_no_archive_is_refused(what: str) -> None:
    with pytest.raises(ServiceError, match="archive") as caught:
        read(BROKEN[what])
    assert caught.value.code is ErrorCode.invalid_request


def test_large_recordings_are_refused_before_they_are_read() -> None:
    with pytest.raises(ServiceError, match="over the limit") as caught:
        read(GOOD, limit=len(FIRST) - 1)
    assert caught.value.code is ErrorCode.payload_too_large


@given(st.integers(0, len(GOOD) - 1))
def test_half_an_archive_is_refused(size: int) -> None:
    with tarfile.open(fileobj=io.BytesIO(GOOD)) as tar:
        complete = tar.getmembers()[-1].offset_data + -(-len(FIRST) // 512) * 512
    if size >= complete:
        assert read(GOOD[:size])[1] == [FIRST]  # the end lacks only zeros
    else:
        with pytest.raises(ServiceError):
            read(GOOD[:size])


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_a_damaged_archive_is_refused_or_says_the_same(place: int, change: int) -> None:
    data = damaged(GOOD, place, bytes([GOOD[place] ^ change]))
    try:
        found, recordings = read(data)
    except ServiceError:
        return
    assert recordings == [FIRST]
    assert {len(found.recordings), found.version} == {1}


@given(st.binary(max_size=3000))
def test_any_bytes_are_refused_in_words(data: bytes) -> None:
    with pytest.raises(ServiceError):
        read(data)
