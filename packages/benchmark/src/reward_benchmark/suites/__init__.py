"""Where prompts, images and people's preferences come from."""

from .base import Group, Part, SuiteOptions

__all__ = ["SUITES", "Group", "Part", "SuiteOptions", "build_suite"]

#: Suite -> the scorers it is run with unless others are named.
SUITES = {
    "table1": ("ImageReward-v1.0", "CLIP", "BLIP", "Aesthetic"),
    "table3": ("ImageReward-v1.0", "CLIP", "BLIP", "Aesthetic"),
    "shapes": ("oracle", "tiny", "tiny-cosine", "colour-histogram", "random"),
}


def build_suite(name: str, options: SuiteOptions) -> list[Part]:
    """The parts (tables) of a suite, their images fetched or made where they are not there yet."""
    if name == "shapes":
        from .shapes import build
    elif name == "table1":
        from .table1 import build
    elif name == "table3":
        from .table3 import build
    else:
        from reward_core.errors import InputError

        raise InputError(f"unknown suite {name!r}; known are {', '.join(SUITES)}")
    return build(options)
