"""The base of every configuration: frozen, checked, unknown keys are errors."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """A frozen pydantic model; each part keeps its own beside the thing it configures."""

    model_config = ConfigDict(frozen=True, extra="forbid")
