"""Convert a WebUI prompt to plain text."""

from __future__ import annotations

from modules import extra_networks, prompt_parser


def plain_prompt(prompt: str, steps: int) -> str:
    """Return the words of a prompt, without the WebUI's syntax.

    The model was trained on plain sentences and reads 35 tokens: "(red:1.3) house" is scored as "red
    house". If the prompt changes during sampling, the words of the last step count.
    """
    text, _ = extra_networks.parse_prompt(prompt)
    schedule = prompt_parser.get_learned_conditioning_prompt_schedules([text], max(int(steps), 1))[0]
    parts = prompt_parser.parse_prompt_attention(schedule[-1][1])
    words = " ".join("".join(part for part, weight in parts if weight != -1).split())  # -1: BREAK
    return words
