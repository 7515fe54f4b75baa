"""ShapesBench: a small world of colored shapes in which the true quality of every image is known.

It has prompts and scenes (`grammar`, `split`), images of them (`render_scene`, `make_image`), faults and the
resulting truth (`faults`, `degrade`, `truth`), and ranked groups for training and evaluation (`groups`,
`fault_mix`). It needs only numpy and Pillow; all randomness comes from the generators passed in.
"""

from .annotations import PATCH_COLUMNS, Annotation, annotate
from .appearance import PALETTE, RADII, nearest_color, nearest_shape
from .degrade import MAGNITUDES, magnitude, strength_of
from .fault_mix import HELD_OUT, TRAIN, GroupConfig, hard_negatives, sample_faults, shows_held_out
from .faults import (
    CLEANLINESS,
    SEMANTIC,
    Fault,
    RenderedImage,
    check_faults,
    draw_scene,
    make_image,
    paint,
    render_scene,
)
from .grammar import (
    COLORS,
    RELATIONS,
    SHAPES,
    SIZES,
    VOCABULARY,
    Scene,
    Thing,
    all_scenes,
    all_wordings,
    parse,
    phrase,
)
from .groups import Group, make_group, make_groups, rank, write_groups
from .near_misses import near_miss
from .oracle import oracle, oracle_batch
from .reading import FoundThing, Reading, read_image
from .recolor import recolor
from .render import Background, Drawing, Mark, rasterize
from .split import SPLITS, Split, load_split, sample_scene, split_of
from .truth import Truth, alignment, cleanliness

__all__ = [
    "CLEANLINESS",
    "COLORS",
    "HELD_OUT",
    "MAGNITUDES",
    "PALETTE",
    "PATCH_COLUMNS",
    "RADII",
    "RELATIONS",
    "SEMANTIC",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "TRAIN",
    "VOCABULARY",
    "Annotation",
    "Background",
    "Drawing",
    "Fault",
    "FoundThing",
    "Group",
    "GroupConfig",
    "Mark",
    "Reading",
    "RenderedImage",
    "Scene",
    "Split",
    "Thing",
    "Truth",
    "alignment",
    "all_scenes",
    "all_wordings",
    "annotate",
    "check_faults",
    "cleanliness",
    "draw_scene",
    "hard_negatives",
    "load_split",
    "magnitude",
    "make_group",
    "make_groups",
    "make_image",
    "near_miss",
    "nearest_color",
    "nearest_shape",
    "oracle",
    "oracle_batch",
    "paint",
    "parse",
    "phrase",
    "rank",
    "rasterize",
    "read_image",
    "recolor",
    "render_scene",
    "sample_faults",
    "sample_scene",
    "shows_held_out",
    "split_of",
    "strength_of",
    "write_groups",
]
