"""The base of what requests and answers consist of. Runs in the front."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ApiModel(BaseModel):
    """Fields of a request, an answer or a message.

    Its validator is built when it is first used: there are 130 of them, of which a service uses
    few, and all together take a megabyte.
    """

    model_config = ConfigDict(defer_build=True)
