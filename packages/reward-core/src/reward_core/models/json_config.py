"""Base of the configurations of scorers whose sizes are plain fields."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, TypeVar

from ..errors import CheckpointError
from ..files.format_version import FORMAT_VERSION, check_format_version
from ..network.config import MODEL_FORMAT, OLDER_MODEL
from ..network.field_checks import checked

C = TypeVar("C", bound="JsonConfig")


@dataclass(frozen=True)
class JsonConfig:
    """A frozen configuration that is stored as JSON and checked when it is read."""

    model_type: ClassVar[str]

    def to_dict(self) -> dict[str, Any]:
        """Return the content of config.json."""
        return {"model_type": self.model_type, FORMAT_VERSION: MODEL_FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls: type[C], content: dict[str, Any], source: str = "config") -> C:
        """Return the configuration for the content of a config.json.

        Raises:
            CheckpointError: an unknown key, or a value of the wrong type or out of range.
        """
        if not isinstance(content, dict):
            raise CheckpointError(f"Cannot load '{source}': expected a JSON object, got {content!r:.80}.")
        check_format_version(content, MODEL_FORMAT, source, OLDER_MODEL)
        values = {key: value for key, value in content.items() if key not in ("model_type", FORMAT_VERSION)}
        known = {field.name for field in fields(cls)}
        if content.get("model_type", cls.model_type) != cls.model_type or set(values) - known:
            raise CheckpointError(
                f"Cannot load '{source}': model_type is {content.get('model_type')!r} and unknown keys are "
                f"{sorted(set(values) - known)[:8]}; expected {cls.model_type!r} with keys {sorted(known)}"
            )
        return cls.from_values(values, source)

    @classmethod
    def from_values(cls: type[C], values: dict[str, Any], source: str) -> C:
        """Return the configuration with these fields, after checking them.

        Raises:
            CheckpointError: a value of the wrong type or out of range.
        """
        try:
            config = cls(**{key: checked(cls, key, value) for key, value in values.items()})
            config.check()
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"Cannot load '{source}': {error}.") from error
        return config

    def check(self) -> None:
        """Raise ValueError if fields have unknown or inconsistent values."""

    def check_choice(self, key: str, known: tuple[str, ...]) -> None:
        """Raise ValueError unless a field has one of the known values."""
        if getattr(self, key) not in known:
            raise ValueError(f"{key} must be {' or '.join(known)}, got {getattr(self, key)!r:.80}")
