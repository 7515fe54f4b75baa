"""Puts the extensions of tools/ into the wheel, for ``reward-core install-extension``.

They are in tools/ of a checkout; an sdist has them in extensions/, from which its wheel is built.
"""

from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

EXTENSIONS = ("sd_webui", "comfyui")


class ExtensionFolders(BuildHookInterface):
    PLUGIN_NAME = "custom"

    def initialize(self, version, build_data):
        if version == "editable":
            return  # found in the checkout
        target = "reward_core/extensions" if self.target_name == "wheel" else "extensions"
        for name in EXTENSIONS:
            in_checkout = Path(self.root).parents[1] / "tools" / name
            source = in_checkout if in_checkout.is_dir() else Path(self.root) / "extensions" / name
            build_data["force_include"][str(source)] = f"{target}/{name}"
