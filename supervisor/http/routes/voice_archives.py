"""Export and import of registered voices, so that they move between machines. Runs in the front.

`supervisor/voices/archive.py` describes the file.
"""

from __future__ import annotations

from typing import BinaryIO

from aiohttp import hdrs, web
from pydantic import ConfigDict

from ipc.errors import ErrorCode
from supervisor.dispatch.upload import Upload
from supervisor.http.api.api_model import ApiModel
from supervisor.http.api.operation import (
    FORM,
    JSON,
    Answer,
    Call,
    Nothing,
    Operations,
    json_answer,
    operation,
)
from supervisor.http.api.read import FileField
from supervisor.http.routes.voices import (
    TAG,
    Registered,
    VoicePath,
    register_voice,
    registered_voice,
)
from supervisor.http.shared.files import send_bytes
from supervisor.http.shared.streaming import send
from supervisor.threads import in_thread
from supervisor.voices import archive
from supervisor.voices.store import open_recording

_MB = 1024 * 1024

_ARCHIVE = FileField(
    "archive",
    "the archive of a voice, as GET returns it",
    lambda settings: settings.max_reference_mb + 1,
)


class ArchiveForm(ApiModel):
    """Nothing but the archive."""

    model_config = ConfigDict(extra="forbid")


async def export_voice(call: Call[Nothing, VoicePath]) -> web.StreamResponse:
    """A registered voice as a tar archive: its recordings as they were sent, and the facts.

    `PUT` takes it, here or on another machine. The same voice is always the same file.
    """
    voice = await registered_voice(call, call.params.voice_id)
    store = call.service.voices
    async with store.hold(voice.key):
        await store.fetch_recording(voice)
        path = store.recording_path(voice)

        def begin() -> bytes:
            with open(path, "rb") as file:
                return archive.head_of(voice, file)

        head = await in_thread(begin)
        response = web.StreamResponse(
            headers={
                "Content-Type": archive.MEDIA_TYPE,
                "X-Content-Type-Options": "nosniff",
                "Content-Disposition": f'attachment; filename="{voice.id}.tar"',
            }
        )
        response.content_length = archive.archive_size(voice, head)
        await response.prepare(call.request)
        if call.request.method != hdrs.METH_HEAD:
            start, before = 0, head
            for number, size in enumerate(archive.sizes_of(voice)):
                await send(call.request, response, before + archive.header(number, size))
                await send_bytes(call.request, response, path, start, size)
                start, before = start + size, archive.padding(size)
            await send(call.request, response, before + archive.END)
        await response.write_eof()
        return response


async def import_voice(call: Call[ArchiveForm, VoicePath]) -> web.StreamResponse:
    """Register the voice of an archive under the id in the path.

    Everything in it is checked, and the voice is encoded and tested as for a registration. If the
    id belongs to a registered voice already, the new voice replaces it. The name, the consent and
    the time of the first registration are those in the archive. The body is the archive itself, or
    a form with it.
    """
    settings = call.service.settings
    sent = call.upload.recording

    def read() -> tuple[archive.VoiceFacts, list[archive.Span]]:
        with open_recording(sent) as file:
            return archive.read_archive(file, call.upload.size, settings.max_reference_mb * _MB)

    facts, spans = await in_thread(read)
    async with Upload(call.service.spool) as upload:
        file = await in_thread(lambda: open_recording(sent))
        try:
            for span in spans:
                upload.begin()
                await _copy(file, span, upload)
        finally:
            file.close()
        await upload.close()
        spent = await register_voice(
            call,
            voice_id=call.params.voice_id,
            name=facts.name,
            consent=facts.consent,
            created=facts.created,
            upload=upload,
        )
    registered = Registered(status="ok", voice_id=call.params.voice_id)
    return json_answer(registered, headers={"Server-Timing": spent})


async def _copy(file: BinaryIO, span: archive.Span, upload: Upload) -> None:
    """Append the bytes of `span` to `upload`."""
    pieces = archive.blocks(file, span)
    while (piece := await in_thread(lambda: next(pieces, None))) is not None:
        await upload.write(piece)


OPERATIONS: Operations = (
    operation(
        "GET",
        "/v1/voices/{voice_id}/archive",
        export_voice,
        summary="Export a registered voice",
        tag=TAG,
        params=VoicePath,
        answers={200: Answer("The archive.", {archive.MEDIA_TYPE: "a tar archive"})},
    ),
    operation(
        "PUT",
        "/v1/voices/{voice_id}/archive",
        import_voice,
        summary="Import a voice",
        tag=TAG,
        params=VoicePath,
        body=ArchiveForm,
        media=(FORM, archive.MEDIA_TYPE),
        file=_ARCHIVE,
        answers={200: Answer("The voice is registered.", {JSON: Registered})},
        errors=(ErrorCode.conflict, ErrorCode.spool_full),
    ),
)
