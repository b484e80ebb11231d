"""Speech of a text that is being written, over ElevenLabs' two WebSockets. Runs in the front.

`stream-input` is one text; `multi-stream-input` has several, called contexts, which come and go:
voice agents open one for each of their turns. As in `speech.py`, fields that are not declared are
accepted and ignored.
"""

from __future__ import annotations

import asyncio
import base64
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from ipc.engines import Kind
from ipc.errors import ErrorCode, ServiceError
from ipc.formats import OutputFormat
from supervisor.http.api.api_model import ApiModel
from supervisor.http.api.operation import Operations
from supervisor.http.api.read import read_message
from supervisor.http.api.session import End, Session, session
from supervisor.http.routes.elevenlabs.speech import (
    TAG,
    ApplyTextNormalization,
    LanguageCode,
    ModelId,
    sound_of,
)
from supervisor.http.routes.elevenlabs.voices import ElevenLabsVoiceSettings
from supervisor.http.shared.character_times import CharacterTimes
from supervisor.http.shared.live_speech import MOST_WAITING, LiveSound, LiveSpeech, Manner
from supervisor.http.shared.synthesis import Seed, sampling, text_language
from supervisor.http.shared.tasks import stop

_MOST_CONTEXTS = 5
"""As many as ElevenLabs has at once in one session."""

_POLICY = 1008
"""ElevenLabs closes with this code whenever a client has made a mistake."""


class StreamInputParams(ApiModel):
    """The voice, the output format, and how to read the text."""

    model_config = ConfigDict(extra="ignore")

    voice_id: Annotated[str, Field(examples=["anna"])]
    model_id: ModelId = None
    language_code: LanguageCode = None
    output_format: Annotated[
        OutputFormat,
        Field(description="codec, sample rate in Hz, and for some the kbit/s; WAV is sent as PCM"),
    ] = "mp3_44100_128"
    inactivity_timeout: Annotated[
        float,
        Field(gt=0, le=180, description="seconds without a message after which no more is awaited"),
    ] = 20
    auto_mode: Annotated[
        bool, Field(description="each message is a sentence or a phrase: do not wait for more")
    ] = False
    apply_text_normalization: ApplyTextNormalization = None
    seed: Seed | None = None
    authorization: Annotated[str | None, Field(description="an API key")] = None
    single_use_token: Annotated[str | None, Field(description="an API key")] = None


class _GenerationConfig(ApiModel):
    chunk_length_schedule: Annotated[
        list[Annotated[float, Field(ge=5, le=500)]] | None, Field(max_length=20)
    ] = None


class _Message(ApiModel):
    """Any message of a client."""

    model_config = ConfigDict(extra="ignore")

    text: Annotated[str | None, Field(max_length=MOST_WAITING)] = None
    context_id: Annotated[str | None, Field(max_length=200)] = None
    flush: bool | None = None
    try_trigger_generation: bool | None = None
    close_context: bool | None = None
    close_socket: bool | None = None
    voice_settings: ElevenLabsVoiceSettings | None = None
    generation_config: _GenerationConfig | None = None
    xi_api_key: Annotated[str | None, Field(max_length=1000)] = None
    authorization: Annotated[str | None, Field(max_length=1000)] = None


class _Alignment(ApiModel):
    chars: list[str]
    charStartTimesMs: list[int]  # noqa: N815
    charDurationsMs: list[int]  # noqa: N815


class _Audio(ApiModel):
    audio: str
    alignment: _Alignment | None
    normalizedAlignment: _Alignment | None  # noqa: N815


class _AudioOfContext(_Audio):
    contextId: str  # noqa: N815


class _Final(ApiModel):
    isFinal: Literal[True] = True  # noqa: N815
    contextId: str | None = None  # noqa: N815


class _Error(ApiModel):
    message: str
    error: str
    code: int = _POLICY
    contextId: str | None = None  # noqa: N815


async def stream_input(session: Session[StreamInputParams]) -> None:
    """Speak a text while it is written: a WebSocket with ElevenLabs' messages.

    The first message may have `voice_settings`, `generation_config` and `xi_api_key`; each has a
    part of the `text`; an empty `text` is its end. A sentence is spoken as soon as it is complete,
    unless a `chunk_length_schedule` asks to wait.
    """
    await _serve(session, several=False)


async def multi_stream_input(session: Session[StreamInputParams]) -> None:
    """Speak several texts while they are written: a WebSocket with ElevenLabs' messages.

    As `stream-input`, with a `context_id` in each message. `close_context` ends a text: one that
    was flushed is spoken to its end, any other stops at once. `close_socket` does that for all.
    """
    await _serve(session, several=True)


async def _serve(session: Session[StreamInputParams], *, several: bool) -> None:
    talk = _Talk(session, several=several)
    try:
        await talk.run()
    finally:
        await talk.stop()


class _Context:
    """One text of a session. It is the `Listener` of its speech."""

    def __init__(self, talk: _Talk, id: str | None, speech_of: Any) -> None:
        self.id = id
        self.used = asyncio.get_running_loop().time()
        """When its last message came."""
        self.flushed_by: Literal["", "text", "flush"] = ""
        """What has flushed the last of its text: nothing, that message, or one of its own."""
        self.speech: LiveSpeech = speech_of(self)
        self.task = asyncio.create_task(self._run(talk))
        self.task.add_done_callback(talk.note)
        self._talk = talk
        self._auto = talk.params.auto_mode
        self._told_over = False

    @property
    def complete(self) -> bool:
        """Whether closing it means that its text is over, and not that it is to be silent.

        In auto mode all messages may be flushed, so there it takes a flush of its own, unless the
        listener has heard nothing yet.
        """
        return self.flushed_by == "flush" or (
            self.flushed_by == "text" and (not self._auto or self.speech.silent)
        )

    async def heard(self, sound: LiveSound) -> None:
        said = sound.sentence
        fields: dict[str, Any] = {
            "audio": base64.b64encode(sound.audio).decode(),
            "alignment": said and _alignment(said.source, said.begin, said.last),
            "normalizedAlignment": said and _alignment(said.spoken, said.begin, said.last),
        }
        message = (
            _Audio(**fields) if self.id is None else _AudioOfContext(**fields, contextId=self.id)
        )
        await self._talk.session.send_json(message)

    async def flushed(self) -> None:
        pass  # clients are not told

    async def failed(self, error: ServiceError, text: str) -> None:
        raise error

    async def _run(self, talk: _Talk) -> None:
        try:
            await self.speech.run()
        except ServiceError as error:
            if not talk.several or error.code is ErrorCode.unauthorized:
                await talk.tell(error)
                raise
            await talk.tell(error, self.id)
        await self.over()

    async def over(self) -> None:
        """Tell the client, once, that no more sound comes."""
        if not self._told_over:
            self._told_over = True
            await self._talk.session.send_json(_Final(contextId=self.id), exclude_none=True)


class _Talk:
    """One session."""

    def __init__(self, session: Session[StreamInputParams], *, several: bool) -> None:
        self.session = session
        self.params = session.params
        self.several = several
        self._open: dict[str | None, _Context] = {}
        """The contexts whose text goes on."""
        self._closing: dict[asyncio.Task[None], _Context] = {}
        """Those whose text is complete, but not spoken to its end."""
        self._over = False
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Until the client has all it asked for, or has gone."""
        self._authenticate(self.params.authorization, self.params.single_use_token)
        reading = asyncio.create_task(self._read())
        reading.add_done_callback(self.note)
        try:
            while not (reading.done() or (self._over and not self._tasks())):
                await self._change()
        finally:
            reading.cancel()
            await asyncio.wait({reading})
        if not reading.cancelled():
            reading.result()
        if self.session.end is End.CLIENT:
            return
        self._end_all()
        while self._tasks():
            await self._change()
        if self.session.end is End.IDLE:
            raise await self._idle()

    async def stop(self) -> None:
        """Stop to speak at once."""
        await stop(self._tasks())

    async def tell(self, error: ServiceError, context: str | None = None) -> None:
        """Tell the client about an error, as ElevenLabs does."""
        await self.session.send_json(
            _Error(message=error.message, error=error.code.wire_name, contextId=context),
            exclude_none=True,
        )

    def note(self, _: asyncio.Task[None]) -> None:
        """A task of the session is done."""
        self._changed.set()

    async def _change(self) -> None:
        """Wait until a task is done. Raises what has made a context fail."""
        await self._changed.wait()
        self._changed.clear()
        self._tidy()

    def _tasks(self) -> set[asyncio.Task[None]]:
        return {*self._closing, *(context.task for context in self._open.values())}

    def _tidy(self) -> None:
        """Forget contexts that are over. Raises what made them fail."""
        done = [task for task in self._tasks() if task.done()]
        self._closing = {task: it for task, it in self._closing.items() if task not in done}
        self._open = {id: it for id, it in self._open.items() if it.task not in done}
        for task in done:
            if not task.cancelled():
                task.result()

    async def _read(self) -> None:
        """Obey what the client sends, until no more comes."""
        while True:
            message = await self.session.receive(self._patience())
            if message is not None:
                try:
                    await self._obey(read_message(message, _Message))
                except ServiceError as error:
                    await self.tell(error)
                    raise
            elif self.session.end is not End.IDLE or self._over or not self._close_idle():
                return
            # Once all has come, only a client that goes is of interest.

    def _patience(self) -> float | None:
        """How many seconds from now the next message may take."""
        if self._over:
            return None
        now = asyncio.get_running_loop().time()
        idle = [now - context.used for context in self._open.values()]
        return max(0.01, self.params.inactivity_timeout - max(idle, default=0.0))

    def _close_idle(self) -> bool:
        """Close the contexts that have waited too long; whether the session goes on."""
        if not self.several or not self._open:
            return False
        late = asyncio.get_running_loop().time() - self.params.inactivity_timeout
        for context in [each for each in self._open.values() if each.used <= late]:
            self._end(context)
        return True

    async def _idle(self) -> ServiceError:
        error = ServiceError(
            ErrorCode.invalid_request,
            f"no message came within {self.params.inactivity_timeout:g} s, so the session has "
            "ended; send text, or an empty text to keep a context alive, or ask for a longer "
            "inactivity_timeout",
        )
        told = _Error(message=error.message, error="input_timeout_exceeded")
        await self.session.send_json(told, exclude_none=True)
        return error

    async def _obey(self, message: _Message) -> None:
        if self._over:
            return
        self._authenticate(message.xi_api_key, message.authorization)
        self.session.piece()  # a key is needed from the first message on
        if self.several and message.close_socket:
            self._over = True
            self._close_all()
            self._changed.set()  # perhaps there is nothing to wait for
        elif self.several and message.close_context:
            await self._close(message.context_id)
        elif self.several and not message.text and message.context_id not in self._open:
            pass  # it only keeps the session alive
        else:
            await self._take(message)

    def _authenticate(self, *keys: str | None) -> None:
        for key in keys:
            if key and self.session.needs_key:
                self.session.authenticate(key.removeprefix("Bearer ").strip())

    async def _take(self, message: _Message) -> None:
        """Text for a context, which may be new."""
        context = self._open.get(message.context_id if self.several else None)
        if context is None:
            context = await self._begin(message)
            if context is None:
                return
        speech, text = context.speech, message.text or ""
        if message.voice_settings is not None:
            speech.manner = self._manner(message, speech.manner)
        if not speech.came:
            text = text.lstrip(" ")  # that only opens the context
        if text:
            await speech.room()
            speech.add(text, whole=self.params.auto_mode)
            context.flushed_by = ""
        context.used = asyncio.get_running_loop().time()
        if message.flush:
            speech.flush()
            context.flushed_by = "text" if text.strip() else "flush"
        elif message.try_trigger_generation:
            speech.trigger()
        if not self.several and message.text == "":
            self._over = True
            self._end(context)

    async def _begin(self, message: _Message) -> _Context | None:
        """Open a context; None if there are too many."""
        id = message.context_id if self.several else None
        if len(self._open) >= _MOST_CONTEXTS:
            error = ServiceError(
                ErrorCode.overloaded,
                f"{_MOST_CONTEXTS} contexts are open; close those that you do not use",
            )
            await self.tell(error, id)
            return None
        # Speech that is going to its end: the oldest ends now, so that it cannot pile up.
        if len(self._closing) >= _MOST_CONTEXTS:
            next(iter(self._closing)).cancel()
        config = message.generation_config
        schedule = (config and config.chunk_length_schedule) or []
        lengths = () if self.params.auto_mode else tuple(round(length) for length in schedule)
        manner = self._manner(message)
        context = _Context(
            self, id, lambda it: LiveSpeech(self.session, manner, it, schedule=lengths)
        )
        self._open[id] = context
        return context

    def _manner(self, message: _Message, before: Manner | None = None) -> Manner:
        params, settings = self.params, message.voice_settings
        codec, rate, bit_rate = sound_of(params.output_format)
        speed = settings.speed if settings else None
        return Manner(
            before.sampling if before else sampling(params.seed),
            "pcm" if codec == "wav" else codec,
            voice=params.voice_id,
            model=params.model_id,
            sample_rate=rate,
            bit_rate=bit_rate,
            speed=1.0 if speed is None else speed,
            normalize=params.apply_text_normalization != "off",
            language=text_language(params.language_code),
        )

    def _end(self, context: _Context) -> None:
        """No more text comes for it: it is spoken to its end."""
        context.speech.end()
        self._open.pop(context.id, None)
        self._closing[context.task] = context

    def _end_all(self) -> None:
        for context in list(self._open.values()):
            self._end(context)

    async def _close(self, id: str | None) -> None:
        """The client closes a context: its text is complete, or it has been interrupted."""
        context = self._open.get(id)
        if context is None:
            # Closed before, and still speaking: now it must be silent.
            for closing in [each for each in self._closing.values() if each.id == id]:
                await self._silence(closing)
        elif context.complete:
            self._end(context)
        else:
            await self._silence(context)

    def _close_all(self) -> None:
        for context in list(self._open.values()):
            if context.complete:
                self._end(context)
            else:
                context.task.cancel()

    async def _silence(self, context: _Context) -> None:
        context.task.cancel()
        await asyncio.wait({context.task})
        self._open = {id: it for id, it in self._open.items() if it is not context}
        self._closing.pop(context.task, None)
        if not context.task.cancelled():
            context.task.result()  # it has failed, or has just come to its end
        await context.over()


def _alignment(times: CharacterTimes, begin: float, last: bool) -> _Alignment:
    """Times as ElevenLabs' clients expect them: from the end of the message before, whole ms.

    Clients find words by the spaces between them, and a client that sends whole sentences may send
    none between two: so there is one behind the `last` sentence of a piece.
    """
    starts = [_ms(each - begin) for each in times.character_start_times_seconds]
    ends = [_ms(each - begin) for each in times.character_end_times_seconds]
    chars = list(times.characters)
    if last and chars and chars[-1].isascii() and not chars[-1].isspace():
        chars, starts, ends = [*chars, " "], [*starts, ends[-1]], [*ends, ends[-1]]
    return _Alignment(
        chars=chars,
        charStartTimesMs=starts,
        charDurationsMs=[end - start for start, end in zip(starts, ends, strict=True)],
    )


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))


OPERATIONS: Operations = tuple(
    session(
        f"/v1/text-to-speech/{{voice_id}}/{path}",
        handler,
        kind=Kind.TTS,
        summary=summary,
        tag=TAG,
        params=StreamInputParams,
        key_in_message=True,
    )
    for path, handler, summary in (
        ("stream-input", stream_input, "Speak a text while it is written"),
        ("multi-stream-input", multi_stream_input, "Speak several texts while they are written"),
    )
)
