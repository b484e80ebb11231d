"""Models, user and subscription, as ElevenLabs' clients ask for them to check a key. In the front.

The service counts no characters and sells nothing: what has no meaning here has a constant value.
"""

from __future__ import annotations

from typing import Annotated, Literal

from aiohttp import web
from pydantic import ConfigDict, Field

from ipc.engines import Kind
from supervisor.http.api.api_model import ApiModel
from supervisor.http.api.operation import (
    JSON,
    Answer,
    Call,
    Nothing,
    Operations,
    json_answer,
    operation,
)
from supervisor.http.context import client
from supervisor.http.shared.languages import ENGLISH_NAMES
from supervisor.http.shared.models import languages
from supervisor.http.shared.owners import seen_voices
from supervisor.service import Service

TAG = "ElevenLabs"

_MODELS = (
    *("eleven_multilingual_v2", "eleven_turbo_v2_5", "eleven_turbo_v2", "eleven_flash_v2_5"),
    *("eleven_flash_v2", "eleven_v3", "eleven_monolingual_v1", "eleven_multilingual_v1"),
)
"""ElevenLabs' names for the default engine for speech."""

_UNLIMITED = 2**31 - 1


class ElevenLabsLanguage(ApiModel):
    """A language that a model speaks."""

    language_id: str
    name: str


class ElevenLabsRates(ApiModel):
    """What a model costs: nothing."""

    character_cost_multiplier: Literal[0] = 0


class ElevenLabsModel(ApiModel):
    """A model for speech: an engine, or another name for the default one."""

    model_id: str
    name: str
    description: str
    can_do_text_to_speech: Literal[True] = True
    can_do_voice_conversion: Literal[False] = False
    can_be_finetuned: Literal[False] = False
    can_use_style: Literal[False] = False
    can_use_speaker_boost: Literal[False] = False
    serves_pro_voices: Literal[False] = False
    requires_alpha_access: Literal[False] = False
    token_cost_factor: Literal[0] = 0
    max_characters_request_free_user: int
    max_characters_request_subscribed_user: int
    maximum_text_length_per_request: int
    languages: Annotated[
        list[ElevenLabsLanguage],
        Field(description="those that it speaks; empty until the engine has loaded"),
    ]
    model_rates: ElevenLabsRates = ElevenLabsRates()
    concurrency_group: Literal["standard"] = "standard"


class Price(ApiModel):
    """An amount of money: none."""

    amount: Literal["0"] = "0"
    currency: Literal["usd"] = "usd"


class Subscription(ApiModel):
    """What the client may do. Characters are not counted, and not limited in number."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"voice_slots_used": 2, "voice_limit": 1000}]}
    )

    tier: Literal["self-hosted"] = "self-hosted"
    status: Literal["active"] = "active"
    character_count: Literal[0] = 0
    character_limit: int = _UNLIMITED
    max_character_limit_extension: Literal[0] = 0
    max_credit_limit_extension: Literal["unlimited"] = "unlimited"
    can_extend_character_limit: Literal[False] = False
    allowed_to_extend_character_limit: Literal[False] = False
    next_character_count_reset_unix: Literal[0] = 0
    voice_slots_used: Annotated[int, Field(description="number of registered voices")]
    voice_limit: Annotated[int, Field(description="number of voices that may be registered")]
    voice_add_edit_counter: Literal[0] = 0
    max_voice_add_edits: int = _UNLIMITED
    professional_voice_slots_used: Literal[0] = 0
    professional_voice_slots_used_in_workspace: Literal[0] = 0
    professional_voice_limit: Literal[0] = 0
    can_extend_voice_limit: Literal[False] = False
    can_use_instant_voice_cloning: Literal[True] = True
    can_use_professional_voice_cloning: Literal[False] = False
    currency: Literal["usd"] = "usd"
    current_overage: Price = Price()
    billing_period: Literal["monthly_period"] = "monthly_period"
    character_refresh_period: Literal["monthly_period"] = "monthly_period"
    open_invoices: Annotated[list[str], Field(max_length=0)] = []
    has_open_invoices: Literal[False] = False


class User(ApiModel):
    """The owner of the key."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"user_id": "anna", "subscription": {"voice_slots_used": 2, "voice_limit": 1000}}
            ]
        }
    )

    user_id: Annotated[str, Field(description="name of the key, or address of a client without")]
    workspace_id: Literal["voice-engine"] = "voice-engine"
    first_name: Literal[""] = ""
    subscription: Subscription
    is_new_user: Literal[False] = False
    is_onboarding_completed: Literal[True] = True
    is_onboarding_checklist_completed: Literal[True] = True
    can_use_delayed_payment_methods: Literal[False] = False
    is_api_key_hashed: Literal[True] = True
    created_at: Literal[0] = 0
    seat_type: Literal["workspace_member"] = "workspace_member"


def elevenlabs_models(service: Service) -> list[ElevenLabsModel]:
    """The engines for speech, and ElevenLabs' names for the default one."""
    models = []
    for model in service.models.of(Kind.TTS):
        engine = model.backend.engine.name
        limit = service.settings.max_text_chars
        models += [
            ElevenLabsModel(
                model_id=name,
                name=name,
                description=f"the engine {engine}",
                max_characters_request_free_user=limit,
                max_characters_request_subscribed_user=limit,
                maximum_text_length_per_request=limit,
                languages=[
                    ElevenLabsLanguage(language_id=code, name=ENGLISH_NAMES.get(code, code))
                    for code in languages(model)
                ],
            )
            for name in model.names(_MODELS)
        ]
    return models


async def user(call: Call[Nothing, Nothing]) -> web.StreamResponse:
    """The owner of the key. Clients call this to see whether their key is valid."""
    return json_answer(User(user_id=client(call.request), subscription=_subscription(call)))


async def subscription(call: Call[Nothing, Nothing]) -> web.StreamResponse:
    """What the owner of the key may do."""
    return json_answer(_subscription(call))


def _subscription(call: Call[Nothing, Nothing]) -> Subscription:
    return Subscription(
        voice_slots_used=len(seen_voices(call.request).list()),
        voice_limit=call.service.settings.max_voices,
    )


OPERATIONS: Operations = (
    operation(
        "GET",
        "/v1/user",
        user,
        summary="The owner of the key",
        tag=TAG,
        answers={200: Answer("The owner.", {JSON: User})},
    ),
    operation(
        "GET",
        "/v1/user/subscription",
        subscription,
        summary="The owner's subscription",
        tag=TAG,
        answers={200: Answer("The subscription.", {JSON: Subscription})},
    ),
)
