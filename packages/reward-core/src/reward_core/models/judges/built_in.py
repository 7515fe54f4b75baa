"""Templates that come with the package.

The texts of UnifiedReward are the authors' (github.com/CodeGoat24/UnifiedReward, MIT), byte for byte: a model
that was trained on one text answers another one differently.
"""

from __future__ import annotations

from .templates import PAIRWISE, YES_NO, JudgeTemplate

_POINTWISE = (
    "You are presented with a generated image and its associated text caption. Your task is to "
    "analyze the image across multiple dimensions in relation to the caption. Specifically:\n"
    "Provide overall assessments for the image along the following axes (each rated from 1 to 5):\n"
    "- Alignment Score: How well the image matches the caption in terms of content.\n"
    "- Coherence Score: How logically consistent the image is (absence of visual glitches, object "
    "distortions, etc.).\n"
    "- Style Score: How aesthetically appealing the image looks, regardless of caption accuracy.\n"
    "\n"
    "Output your evaluation using the format below:\n"
    "\n"
    "Alignment Score (1-5): X\n"
    "Coherence Score (1-5): Y\n"
    "Style Score (1-5): Z\n"
    "\n"
    "Your task is provided as follows:\n"
    "Text Caption: [{prompt}]"
)

_PAIRWISE = (
    "You are presented with two generated images (Image 1 and Image 2) along with a shared text "
    "caption. Your task is to comparatively evaluate the two images across three specific "
    "dimensions:\n"
    "\n"
    "- Alignment Score: How well each image matches the caption in terms of content.\n"
    "- Coherence Score: How logically consistent and visually coherent each image is (absence of "
    "visual glitches, distorted objects, etc.).\n"
    "- Style Score: How aesthetically appealing each image is, regardless of caption accuracy.\n"
    "\n"
    "For each dimension, you must assign a relative score to Image 1 and Image 2, such that:\n"
    "- Each score is a float between 0 and 1 (inclusive).\n"
    "- The scores for Image 1 and Image 2 must sum to exactly 1.0 for each dimension.\n"
    "- The higher the score, the better that image is in the corresponding dimension *relative to "
    "the other*.\n"
    "\n"
    "This format emphasizes comparative quality rather than absolute evaluation.\n"
    "\n"
    "Please provide your evaluation in the format below:\n"
    "\n"
    "Alignment Score:\n"
    " Image 1: X\n"
    " Image 2: Y\n"
    "\n"
    "Coherence Score:\n"
    " Image 1: X\n"
    " Image 2: Y\n"
    "\n"
    "Style Score:\n"
    " Image 1: X\n"
    " Image 2: Y\n"
    "\n"
    "Your task is provided as follows:\n"
    "Text Caption: [{prompt}]"
)

_LABELS = ("Alignment Score", "Coherence Score", "Style Score")

TEMPLATES: dict[str, JudgeTemplate] = {
    template.name: template
    for template in (
        JudgeTemplate("UnifiedReward-2.0", _POINTWISE, labels=_LABELS),
        JudgeTemplate("UnifiedReward-2.0-pairwise", _PAIRWISE, PAIRWISE, labels=_LABELS, range=(0.0, 1.0)),
        JudgeTemplate("yes-no", 'Does this image show "{prompt}"? Answer with yes or no.', YES_NO),
    )
}
