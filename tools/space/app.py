"""The page of ``reward-core app`` as a Hugging Face Space; it runs here just as well: python app.py.

Which models it shows is set by the Space's variables REWARD_MODEL and REWARD_SECOND_MODEL.
"""

import os
import sys

from reward_core.cli import main

if __name__ == "__main__":
    # A Space is reached through a proxy; anywhere else the page is this machine's alone.
    host = "0.0.0.0" if "SPACE_ID" in os.environ else "127.0.0.1"
    arguments = ["app", "--host", host, "--port", os.environ.get("GRADIO_SERVER_PORT", "7860")]
    arguments += ["--model", os.environ.get("REWARD_MODEL", "ImageReward-v1.0")]
    if name := os.environ.get("SPACE_HOST"):  # the address of the Space, which its proxy asks for
        arguments += ["--allow-host", name]
    if second := os.environ.get("REWARD_SECOND_MODEL"):
        arguments += ["--second-model", second]
    sys.exit(main(arguments))
