"""The words of a WebUI prompt, without the WebUI's own signs."""

from __future__ import annotations

from modules import extra_networks, prompt_parser


def plain_prompt(prompt: str, steps: int) -> str:
    """What a reader sees in a prompt: no ``<lora:...>``, no weights, no ``[from:to:when]``.

    People rated images for plain sentences, and the model reads 35 tokens: "(red:1.3) house" is scored
    as "red house". Of what changes while denoising, the last state counts.
    """
    text, _ = extra_networks.parse_prompt(prompt)
    schedule = prompt_parser.get_learned_conditioning_prompt_schedules([text], max(int(steps), 1))[0]
    parts = prompt_parser.parse_prompt_attention(schedule[-1][1])
    words = " ".join("".join(part for part, weight in parts if weight != -1).split())  # -1: BREAK
    return words
