"""Tiny seeded CLIPs in saved folders: one, its Aesthetic head, and one that pads images."""

from dataclasses import replace

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from reward_core.models.clip.config import ClipConfig
from reward_core.models.clip.scorer import ClipScorer
from reward_core.models.clip.tokenizer import ClipTokenizer

CONFIG = ClipConfig(28, 14, 16, 1, 2, 32, 16, 1, 2, 32, 258, 12, 12)
ENDS = {"<|startoftext|>": 256, "<|endoftext|>": 257}


def letters():
    """Return a tokenizer of single bytes, with the ends that CLIP puts around a prompt."""
    vocab = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))} | ENDS
    made = Tokenizer(models.BPE(vocab, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    start, end = ENDS
    made.post_processor = processors.TemplateProcessing(f"{start} $A {end}", special_tokens=[*ENDS.items()])
    return ClipTokenizer(made, CONFIG.max_length)


def save_tiny_clips(folder):
    """Save CLIP, Aesthetic (with the same encoders) and HPS into subfolders; return their paths."""
    torch.manual_seed(0)
    tokenizer = letters()
    configs = {"CLIP": CONFIG, "Aesthetic": replace(CONFIG, head=(4, 1)), "HPS": replace(CONFIG, fit="pad")}
    clip = ClipScorer(CONFIG, tokenizer).clip.state_dict()
    for name, config in configs.items():
        scorer = ClipScorer(config, tokenizer).eval()
        scorer.clip.load_state_dict(clip)
        scorer.save_pretrained(folder / name)
    return {name: folder / name for name in configs}
