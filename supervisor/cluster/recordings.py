"""The recording of an operation that goes to another machine. Used in fronts and replicas."""

from __future__ import annotations

from dataclasses import replace

from ipc.operations import AnyOperation, EncodeVoice, Listen, Recording, Speak, Transcribe


def recording_of(operation: AnyOperation) -> Recording | None:
    """The recording of an operation, if it has one."""
    match operation:
        case Speak(voice=voice):
            return voice.recording
        case EncodeVoice(recording=recording) | Transcribe(recording=recording):
            return recording
        case Listen():
            return None


def with_recording(operation: AnyOperation, recording: Recording) -> AnyOperation:
    """The same operation with another place of its recording's bytes."""
    match operation:
        case Speak(voice=voice):
            return replace(operation, voice=replace(voice, recording=recording))
        case EncodeVoice() | Transcribe():
            return replace(operation, recording=recording)
        case Listen():
            return operation


def unregistered(operation: AnyOperation) -> AnyOperation:
    """The same operation with a voice that is kept as those of clones are."""
    match operation:
        case Speak(voice=voice):
            return replace(operation, voice=replace(voice, registered=False))
        case EncodeVoice():
            return replace(operation, registered=False)
        case _:
            return operation


def voice_key(operation: AnyOperation) -> str | None:
    """The key of the recording of its voice; None for built-in ones, which all replicas have."""
    match operation:
        case Speak(voice=voice):
            return None if voice.recording is None else voice.recording.key
        case EncodeVoice(recording=recording):
            return recording.key
        case _:
            return None


def speaks_registered(operation: AnyOperation) -> bool:
    """Whether it speaks with a registered voice: then replicas may have the recording."""
    return isinstance(operation, Speak) and operation.voice.registered
