"""Run ``reward-core app`` as a Hugging Face Space, or locally.

The environment variables REWARD_MODEL and REWARD_SECOND_MODEL choose the models.
"""

import os
import sys

from reward_core.cli import main

if __name__ == "__main__":
    # A Space is reached through a proxy. Elsewhere the page is available on this machine only.
    host = "0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1"
    arguments = ["app", "--host", host, "--port", os.environ.get("GRADIO_SERVER_PORT", "7860")]
    arguments += ["--model", os.environ.get("REWARD_MODEL", "ImageReward-v1.0")]
    if name := os.environ.get("SPACE_HOST"):  # the host name in requests from the Space's proxy
        arguments += ["--allow-host", name]
    if second := os.environ.get("REWARD_SECOND_MODEL"):
        arguments += ["--model", second]
    sys.exit(main(arguments))
