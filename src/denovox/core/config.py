"""The base class of every configuration: frozen and validated; unknown keys are errors."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen pydantic model; subclasses live next to the code that they configure."""

    model_config = ConfigDict(frozen=True, extra="forbid")
