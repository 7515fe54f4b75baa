"""ShapesBench: prompts and scenes, the split, images, faults and truth, groups, labels, invalid input."""

import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise, permutations

import numpy as np
import pytest
from PIL import Image

from reward_core import shapes
from reward_core.shapes import Fault, Scene, Thing

ONE = Scene((Thing("cyan", "square", "small"),))
TWO = Scene((Thing("red", "circle", "small"), Thing("blue", "square", "big")), "left of")


@pytest.fixture(scope="module")
def world():
    """All prompts with their scenes."""
    return [(prompt, scene) for scene in shapes.all_scenes() for prompt in shapes.all_wordings(scene)]


def rng(seed=0):
    return np.random.default_rng(seed)


def truth_of(scene, *faults, seed=0):
    return shapes.make_image(scene, rng(seed), faults).truth


def color_centers(pixels):
    """Return {color: center (x, y) in pixels} of all pixels in a palette color, without blended edges."""
    centers = {}
    for name, rgb in shapes.PALETTE.items():
        y, x = np.nonzero(np.abs(pixels.astype(int) - rgb).max(axis=-1) <= 4)
        if len(x) > 20:
            centers[name] = (x.mean(), y.mean())
    return centers


# Prompts and scenes


def test_shapesbench_has_the_documented_number_of_prompts(world):
    assert len({prompt for prompt, _ in world}) == len(world) == 113_440
    assert len({scene for _, scene in world}) == 28_360


@pytest.mark.slow
def test_parse_inverts_every_wording(world):
    for prompt, scene in world[::5]:
        assert shapes.parse(prompt) == scene, prompt


def test_vocabulary_is_exactly_the_words_of_the_prompts(world):
    assert {word for prompt, _ in world for word in prompt.split()} == set(shapes.VOCABULARY)
    assert max(len(prompt.split()) for prompt, _ in world) == 14


@pytest.mark.parametrize(("relation", "turned"), [("right of", "left of"), ("below", "above")])
def test_a_scene_with_the_converse_relation_is_equal(relation, turned):
    a, b = TWO.things
    assert Scene((a, b), relation) == Scene((b, a), turned)
    assert hash(Scene((a, b), relation)) == hash(Scene((b, a), turned))
    assert Scene((a, b), relation) != Scene((a, b), turned)


def test_each_wording_keeps_the_positions_of_the_things():
    scene = Scene((Thing("red", "circle"), Thing("blue", "square")), "above")
    for prompt in (
        "a red circle above a blue square",
        "above a blue square there is a red circle",
        "a blue square below a red circle",
        "below a red circle there is a blue square",
    ):
        assert shapes.parse(prompt) == scene


@pytest.mark.parametrize(
    "prompt",
    [
        "",
        "a red house",
        "a orange circle",
        "A red circle",
        "a red circle ",
        "a red circle near a blue square",
        "a red circle above",
        "a red circle left of a red circle",
        "a red circle above a blue square above a green star",
        "a red circles",
    ],
)
def test_parse_refuses_foreign_prompts_and_names_them(prompt):
    with pytest.raises(ValueError, match="not a prompt of this world") as caught:
        shapes.parse(prompt)
    assert repr(prompt) in str(caught.value)


def test_phrase_draws_every_wording():
    generator = rng()
    assert {shapes.phrase(TWO, generator) for _ in range(100)} == set(shapes.all_wordings(TWO))


# The split


def test_the_split_is_versioned_and_leaves_every_word_in_training():
    split = shapes.load_split()
    assert split.version == 1
    train = [scene for scene in shapes.all_scenes() if shapes.split_of(scene) == "train"]
    assert {thing.color for scene in train for thing in scene.things} == set(shapes.COLORS)
    assert {thing.shape for scene in train for thing in scene.things} == set(shapes.SHAPES)
    assert len(train) > 15_000
    for first, relation, second in split.held_out_relations:
        assert first in shapes.SHAPES
        assert second in shapes.SHAPES
        assert relation in ("left of", "above")


def test_the_scene_sampler_respects_its_split():
    split = shapes.load_split()

    def combinations(scene):
        shown = {(thing.color, thing.shape) for thing in scene.things} & split.held_out_combinations
        if scene.relation:
            triple = (scene.things[0].shape, scene.relation, scene.things[1].shape)
            shown |= {triple} & split.held_out_relations
        return shown

    generator = rng()
    train = [shapes.sample_scene(generator, "train") for _ in range(2000)]
    held_out = [shapes.sample_scene(generator, "held_out") for _ in range(2000)]
    assert not any(combinations(scene) for scene in train)
    assert all(combinations(scene) for scene in held_out)
    seen = set().union(*map(combinations, held_out))
    assert seen == split.held_out_combinations | split.held_out_relations
    assert not set(train) & set(held_out)


def test_training_images_show_no_held_out_combination_even_by_fault():
    blue_square = Scene((Thing("blue", "square"),))
    assert shapes.shows_held_out(blue_square, [Fault("wrong_shape", value="circle")])
    assert shapes.shows_held_out(blue_square, [Fault("extra", value="red star")])
    assert not shapes.shows_held_out(blue_square, [Fault("wrong_shape", value="star")])
    # Purple squares are held out, and red half-way to blue is purple.
    red_square = Scene((Thing("red", "square"),))
    assert not shapes.shows_held_out(red_square, [Fault("wrong_colour", value="blue")])
    assert shapes.shows_held_out(red_square, [Fault("wrong_colour", 0.65, value="blue")])
    # "star left of circle" is not held out, but the swapped relation is.
    swapped = Scene((Thing("cyan", "star"), Thing("red", "circle")), "left of")
    assert shapes.shows_held_out(swapped, [Fault("wrong_relation", value="right of")])
    for group in shapes.make_groups(40):
        assert shapes.split_of(group.scene) == "train"
        assert not any(shapes.shows_held_out(group.scene, faults) for faults in group.faults)


# Images


def test_images_have_the_requested_size_and_are_deterministic():
    for size in (16, 64, 65, 200):
        pixels = shapes.render_scene(TWO, rng(3), size)
        assert pixels.shape == (size, size, 3)
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, shapes.render_scene(TWO, rng(3), size))
    assert not np.array_equal(shapes.render_scene(TWO, rng(3)), shapes.render_scene(TWO, rng(4)))


def test_a_large_image_shows_the_same_as_a_small_one():
    small = shapes.render_scene(TWO, rng(3), 64).astype(float)
    large = shapes.render_scene(TWO, rng(3), 256).reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.abs(small - large).mean() < 1.0


def test_the_relation_holds_in_the_pixels():
    checked = 0
    generator = rng(1)
    while checked < 150:
        scene = shapes.sample_scene(generator, pair_share=1.0)
        first, second = (thing.color for thing in scene.things)
        if first == second:
            continue
        centers = color_centers(shapes.render_scene(scene, generator))
        assert set(centers) == {first, second}, scene
        dx, dy = np.subtract(centers[first], centers[second])
        along, across = (-dx, dy) if scene.relation == "left of" else (-dy, dx)
        assert along > 8, scene
        assert abs(across) < 0.55 * along, scene
        checked += 1


def test_shapes_do_not_overlap_or_leave_the_frame():
    generator = rng(2)
    for _ in range(300):
        drawing = shapes.draw_scene(shapes.sample_scene(generator, pair_share=1.0), generator)
        for mark in drawing.marks:
            left, top, right, bottom = mark.box
            assert left > 0
            assert top > 0
            assert right < 1
            assert bottom < 1
        (l1, t1, r1, b1), (l2, t2, r2, b2) = (mark.box for mark in drawing.marks)
        assert r1 < l2 or r2 < l1 or b1 < t2 or b2 < t1


@pytest.mark.parametrize("relation", ["left of", "above"])
def test_the_widest_shapes_fit_side_by_side_with_an_extra(relation):
    things = (Thing("red", "triangle", "big"), Thing("cyan", "triangle", "big"))
    for seed in range(20):
        drawing = shapes.draw_scene(
            Scene(things, relation),
            rng(seed),
            [Fault("extra", value="pink star"), Fault("wrong_relation", 0.3)],
        )
        boxes = [mark.box for mark in drawing.marks]
        assert len(boxes) == 3
        assert all(left > 0 and top > 0 and right < 1 and bottom < 1 for left, top, right, bottom in boxes)
        for (l1, t1, r1, b1), (l2, t2, r2, b2) in permutations(boxes, 2):
            assert r1 < l2 or r2 < l1 or b1 < t2 or b2 < t1


def test_every_color_contrasts_with_every_background():
    generator = rng(4)
    for color in shapes.COLORS * 6:
        pixels = shapes.render_scene(Scene((Thing(color, "square", "big"),)), generator)
        assert list(color_centers(pixels)) == [color]
        ground = pixels[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int)
        assert np.ptp(ground, axis=-1).max() <= 18
        assert np.abs(ground - shapes.PALETTE[color]).max(axis=-1).min() > 60


def test_sizes_are_far_apart_and_shapes_of_one_size_cover_the_same_area():
    def area(shape, size):
        scene = Scene((Thing("red", shape, size),))
        return np.mean(
            [(np.ptp(shapes.render_scene(scene, rng(i)).astype(int), -1) > 80).sum() for i in range(8)]
        )

    small = [area(shape, "small") for shape in shapes.SHAPES]
    big = [area(shape, "big") for shape in shapes.SHAPES]
    assert max(small) < 1.25 * min(small)
    assert max(big) < 1.25 * min(big)
    assert min(big) > 2 * max(small)


# Faults and truth


def test_a_clean_correct_image_gets_a_perfect_score():
    generator = rng(5)
    for _ in range(200):
        truth = shapes.make_image(shapes.sample_scene(generator), generator).truth
        assert (truth.alignment, truth.cleanliness, truth.utility) == (1, 1, 1)


@pytest.mark.parametrize("kind", shapes.SEMANTIC + shapes.CLEANLINESS)
def test_every_fault_changes_the_image_and_either_alignment_or_cleanliness(kind):
    clean = shapes.make_image(TWO, rng(7))
    spoilt = shapes.make_image(TWO, rng(7), [Fault(kind)])
    assert not np.array_equal(clean.pixels, spoilt.pixels)
    if kind in shapes.SEMANTIC:
        assert spoilt.truth.alignment <= 0.3
        assert spoilt.truth.cleanliness == 1
    else:
        assert spoilt.truth.alignment == 1
        assert spoilt.truth.cleanliness == pytest.approx(0.25)
    assert 0 < spoilt.truth.utility < 1


GRADED = [
    *(("wrong_colour", value) for value in shapes.COLORS if value != "red"),
    *(("wrong_shape", value) for value in shapes.SHAPES if value != "circle"),
    *(("wrong_relation", value) for value in shapes.RELATIONS if value != "left of"),
    ("wrong_size", None),
    ("extra", "green star"),
    *((kind, None) for kind in shapes.CLEANLINESS),
]


@pytest.mark.parametrize(("kind", "value"), GRADED)
def test_truth_falls_with_strength(kind, value):
    strengths = np.linspace(0.05, 1, 20)
    truths = [truth_of(TWO)] + [truth_of(TWO, Fault(kind, float(s), value=value)) for s in strengths]
    side = "alignment" if kind in shapes.SEMANTIC else "cleanliness"
    values = [getattr(truth, side) for truth in truths]
    assert all(before > after for before, after in pairwise(values)), values
    utilities = [truth.utility for truth in truths]
    assert all(before > after for before, after in pairwise(utilities)), utilities


def test_a_swapped_value_costs_the_same_for_every_attribute():
    costs = [
        truth_of(scene, Fault(kind, value=value)).alignment
        for scene in (
            Scene((Thing(color, shape, "big"),)) for color in shapes.COLORS for shape in shapes.SHAPES
        )
        for kind, names, own in (
            ("wrong_colour", shapes.COLORS, scene.things[0].color),
            ("wrong_shape", shapes.SHAPES, scene.things[0].shape),
        )
        for value in names
        if value != own
    ]
    costs += [truth_of(TWO, Fault(kind)).alignment for kind in ("wrong_size", "extra", "wrong_relation")]
    assert 0.2 < min(costs) <= max(costs) < 0.3


def test_missing_shapes_cost_most_and_an_empty_image_scores_zero():
    assert truth_of(TWO, Fault("missing", target=1)).alignment == pytest.approx(0.2)
    assert truth_of(TWO, Fault("missing"), Fault("missing", target=1)).utility == 0
    assert truth_of(ONE, Fault("missing")).utility == 0


def test_more_faults_are_worse():
    faults = [
        Fault("wrong_colour", value="green"),
        Fault("wrong_shape", target=1, value="star"),
        Fault("wrong_relation"),
        Fault("wrong_size", target=1),
        Fault("extra", value="pink cross"),
    ]
    values = [truth_of(TWO, *faults[:count]).alignment for count in range(len(faults) + 1)]
    assert all(before > 2 * after for before, after in pairwise(values)), values
    clean = [
        truth_of(TWO, *(Fault(kind, 0.5) for kind in shapes.CLEANLINESS[:n])).cleanliness for n in range(7)
    ]
    assert all(before > after for before, after in pairwise(clean)), clean


def test_a_dirty_correct_image_beats_a_clean_wrong_one():
    dirty = truth_of(TWO, *(Fault(kind) for kind in shapes.CLEANLINESS))
    wrong = [truth_of(TWO, Fault(kind)).utility for kind in shapes.SEMANTIC]
    assert dirty.utility > max(wrong)


def test_truth_depends_on_what_is_shown_not_on_the_faults():
    # Swapping the colors of two things that differ only in color is the same as swapping the relation.
    scene = Scene((Thing("red", "circle", "big"), Thing("blue", "circle", "big")), "left of")
    exchanged = [Fault("wrong_colour", value="blue"), Fault("wrong_colour", target=1, value="red")]
    turned = truth_of(scene, Fault("wrong_relation")).alignment
    assert truth_of(scene, *exchanged).alignment == pytest.approx(turned, abs=1e-3)
    # An extra thing that is the named one counts as it.
    marks = shapes.draw_scene(ONE, rng()).marks
    assert shapes.alignment(ONE, marks) == 1
    recolored = replace(marks[0], color=tuple(map(float, shapes.PALETTE["red"])))
    assert shapes.alignment(Scene((Thing("red", "square", "small"),)), [recolored]) == 1
    assert shapes.alignment(ONE, [*marks, recolored]) == shapes.alignment(ONE, [recolored, *marks]) < 0.5


def test_an_unnamed_size_cannot_be_wrong():
    scene = Scene((Thing("red", "circle"),))
    radii = {round(shapes.draw_scene(scene, rng(i)).marks[0].radius, 1) for i in range(20)}
    assert radii == {0.1, 0.2}
    with pytest.raises(ValueError, match="needs a named size, but 'a red circle' has none"):
        shapes.make_image(scene, rng(), [Fault("wrong_size")])


def test_a_cut_off_thing_leaves_the_frame_by_its_share():
    for seed in range(20):
        mark = shapes.draw_scene(ONE, rng(seed), [Fault("cut_off", 0.5)]).marks[0]
        left, top, right, bottom = mark.box
        outside = max(-left, right - 1) / (right - left), max(-top, bottom - 1) / (bottom - top)
        assert max(outside) == pytest.approx(shapes.magnitude("cut_off", 0.5))


@pytest.mark.parametrize("kind", shapes.CLEANLINESS)
def test_strength_can_be_computed_from_magnitude(kind):
    for strength in (0.1, 0.5, 1.0):
        assert math.isclose(shapes.strength_of(kind, shapes.magnitude(kind, strength)), strength)


# Groups


def test_ties_share_a_rank_and_long_chains_are_cut():
    assert shapes.rank([0.5, 1.0, 0.96, 0.1], 0.05) == (2, 1, 1, 3)
    assert shapes.rank([1.0, 0.96, 0.92, 0.88], 0.05) == (1, 1, 2, 2)
    assert shapes.rank([0.2, 0.2], 0.0) == (1, 1)
    assert shapes.rank([0.3, 0.2], 0.1) == (1, 1)


@pytest.mark.parametrize(("config", "split"), [(shapes.TRAIN, "train"), (shapes.HELD_OUT, "held_out")])
def test_groups_are_ranked_by_true_utility(config, split):
    groups = list(shapes.make_groups(40, config, split))
    for group in groups:
        count = len(group.images)
        assert 4 <= count <= 9
        assert group.images.shape == (count, 64, 64, 3)
        assert len(group.truths) == len(group.ranking) == len(group.faults) == count
        assert shapes.parse(group.prompt) == group.scene
        assert shapes.split_of(group.scene) == split
        assert sorted(set(group.ranking)) == list(range(1, max(group.ranking) + 1))
        assert max(group.ranking) > 1
        for (a, rank_a), (b, rank_b) in permutations(zip(group.truths, group.ranking, strict=True), 2):
            if a.utility - b.utility > config.tie_width + 1e-6:
                assert rank_a < rank_b
            if rank_a == rank_b:
                assert abs(a.utility - b.utility) <= config.tie_width + 1e-6
    assert sum(1.0 in {truth.utility for truth in group.truths} for group in groups) > 25
    assert any(len(set(group.ranking)) < len(group.ranking) for group in groups)
    kinds = {fault.kind for group in groups for faults in group.faults for fault in faults}
    assert kinds == set(shapes.SEMANTIC + shapes.CLEANLINESS)
    assert len({group.ranking.index(1) for group in groups}) > 3  # the best image is at different indices


def test_groups_repeat_and_can_be_made_in_parts():
    whole = list(shapes.make_groups(6))
    parts = [*shapes.make_groups(2), *shapes.make_groups(4, start=2)]
    for one, other in zip(whole, parts, strict=True):
        assert (one.prompt, one.ranking, one.faults) == (other.prompt, other.ranking, other.faults)
        np.testing.assert_array_equal(one.images, other.images)
    other_seed = next(shapes.make_groups(1, replace(shapes.TRAIN, seed=1)))
    assert not np.array_equal(other_seed.images, whole[0].images)


def test_evaluation_differs_from_training():
    assert shapes.HELD_OUT.tie_width == 0.05
    assert shapes.HELD_OUT.seed != shapes.TRAIN.seed
    assert shapes.HELD_OUT.semantic != shapes.TRAIN.semantic


def test_hard_negatives_recombine_the_same_attributes():
    kinds = [[fault.kind for fault in faults] for faults in shapes.hard_negatives(TWO)]
    assert kinds == [["wrong_relation"], ["wrong_colour"] * 2, ["wrong_shape"] * 2, ["wrong_size"] * 2]
    centers = color_centers(shapes.make_image(TWO, rng(), shapes.hard_negatives(TWO)[0]).pixels)
    assert centers["red"][0] > centers["blue"][0] + 8
    for faults in (*shapes.hard_negatives(TWO), *shapes.hard_negatives(ONE)):
        scene = ONE if faults[0].kind == "extra" else TWO
        assert truth_of(scene, *faults).alignment < 0.3


def test_near_misses_differ_from_the_scene_and_stay_in_the_training_split():
    rng = np.random.default_rng(3)
    for split in shapes.SPLITS:
        differing = set()
        for _ in range(300):
            scene = shapes.sample_scene(rng, split, 0.8)
            missed = shapes.near_miss(scene, rng)
            assert missed != scene
            assert len(missed.things) == len(scene.things)
            assert split == "held_out" or shapes.split_of(missed) == "train"
            # A near miss never describes the scene's images, so a named size is not dropped.
            drawn = shapes.draw_scene(scene, rng)
            assert shapes.alignment(missed, drawn.marks) < 0.5
            differing |= {
                field
                for one, other in zip(scene.things, missed.things, strict=True)
                for field in ("color", "shape", "size")
                if getattr(one, field) != getattr(other, field)
            } | ({"relation"} if scene.relation != missed.relation else set())
        assert differing == {"color", "shape", "size", "relation"}


# Annotations


def test_annotations_give_the_position_of_each_shape():
    rng = np.random.default_rng(0)
    faults = [Fault("blur", 0.4), Fault("extra", value="pink star")]
    scene = shapes.parse("a big red circle left of a small blue cross")
    drawing = shapes.draw_scene(scene, rng, faults)
    annotation = shapes.annotate(drawing, faults, 8)
    assert dict(zip(shapes.CLEANLINESS, annotation.strengths.tolist()))["blur"] == pytest.approx(0.4)
    assert annotation.strengths.sum() == pytest.approx(0.4)
    column = {name: annotation.patches[:, i].reshape(8, 8) for i, name in enumerate(shapes.PATCH_COLUMNS)}
    assert annotation.patches.shape == (64, len(shapes.PATCH_COLUMNS))
    assert set(np.unique(column["thing"])) == {0.0, 1.0}
    assert not annotation.patches[annotation.patches[:, 0] == 0].any()
    pixels = shapes.rasterize(drawing, 64)
    for mark, shape in zip(drawing.marks, ("circle", "cross", "star"), strict=True):
        x, y = min(int(8 * mark.x), 7), min(int(8 * mark.y), 7)
        assert column["thing"][y, x] == 1
        assert column[shape][y, x] == pytest.approx(0, abs=1e-6)
        others = [column[name][y, x] for name in shapes.SHAPES if name != shape]
        assert min(others) > 0.05
        shown = pixels[int(64 * mark.y), int(64 * mark.x)]
        assert shapes.nearest_color(tuple(shown.tolist())) == shapes.nearest_color(mark.color)
        nearest = min(
            (other for other in drawing.marks if other is not mark),
            key=lambda other: math.hypot(other.x - mark.x, other.y - mark.y),
        )
        way = column["other_x"][y, x], column["other_y"][y, x]
        assert way[0] * (nearest.x - mark.x) >= 0
        assert way[1] * (nearest.y - mark.y) >= 0
        assert math.hypot(*way) == pytest.approx(0.7, abs=1e-5)
    big, small = (column["size"][min(int(8 * m.y), 7), min(int(8 * m.x), 7)] for m in drawing.marks[:2])
    assert big > 0 > small
    one_thing = shapes.annotate(shapes.draw_scene(shapes.parse("a red circle"), rng), (), 8)
    assert not one_thing.patches[:, -2:].any()


def test_recolored_things_contrast_and_make_no_held_out_combination():
    rng = np.random.default_rng(1)
    colors = []
    for _ in range(300):
        drawing = shapes.draw_scene(shapes.sample_scene(rng, "train", 0.8), rng)
        other = shapes.recolor(drawing, rng)
        assert other.background == drawing.background
        for before, after in zip(drawing.marks, other.marks, strict=True):
            assert after.outline is before.outline
            assert (after.x, after.y) == (before.x, before.y)
            name = shapes.nearest_color(after.color), shapes.nearest_shape(after.outline)
            assert name not in shapes.load_split().held_out_combinations
            assert max(abs(a - b) for a, b in zip(after.color, other.background.start)) > 20
            colors.append(name[0])
    assert set(colors) == set(shapes.COLORS)


def test_write_groups_writes_images_and_the_ranking_file(tmp_path):
    groups = list(shapes.make_groups(3))
    path = shapes.write_groups(iter(groups), tmp_path / "new" / "set")
    rows = json.loads(path.read_text())
    assert path == tmp_path / "new" / "set" / "rankings.json"
    assert len(rows) == 3
    assert len({row["id"] for row in rows}) == 3
    for row, group in zip(rows, groups, strict=True):
        assert row["prompt"] == group.prompt
        assert row["ranking"] == list(group.ranking)
        assert row["utilities"] == [truth.utility for truth in group.truths]
        assert [[Fault(**fault) for fault in faults] for faults in row["faults"]] == list(
            map(list, group.faults)
        )
        for name, pixels in zip(row["generations"], group.images, strict=True):
            with Image.open(path.parent / name) as image:
                np.testing.assert_array_equal(np.asarray(image), pixels)
    files = {str(file.relative_to(path.parent)) for file in path.parent.rglob("*") if file.is_file()}
    assert files == {"rankings.json"} | {name for row in rows for name in row["generations"]}


# Invalid input

RELATION_ONLY = {"semantic": (("wrong_relation", 1.0),), "semantic_share": 1.0}


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: Thing("mauve", "circle"), "mauve"),
        (lambda: Thing("red", "blob"), "blob"),
        (lambda: Thing("red", "circle", "huge"), "huge"),
        (lambda: Scene(TWO.things, "behind"), "behind"),
        (lambda: Scene(TWO.things), "None"),
        (lambda: Scene(()), "got 0"),
        (lambda: Scene(ONE.things, "above"), "above"),
        (lambda: Scene((Thing("red", "star"), Thing("red", "star", "big")), "above"), "a big red star"),
        (lambda: shapes.sample_scene(rng(), "test"), "test"),
        (lambda: shapes.sample_scene(rng(), pair_share=1.5), "1.5"),
        (lambda: shapes.make_group(rng(), split="dev"), "dev"),
        (lambda: shapes.render_scene(ONE, rng(), 0), "got 0"),
        (lambda: shapes.render_scene(ONE, rng(), -64), "-64"),
        (lambda: shapes.make_image(ONE, rng(), size=64.0), "64.0"),
        (lambda: Fault("blur", 0), "blur.*got 0"),
        (lambda: Fault("blur", 1.01), "1.01"),
        (lambda: Fault("noise", float("nan")), "nan"),
        (lambda: Fault("missing", 0.5), "0.5"),
        (lambda: Fault("smudge"), "smudge"),
        (lambda: Fault("wrong_colour", value="star"), "star"),
        (lambda: Fault("extra", value="red"), "shape ''"),
        (lambda: Fault("blur", value="red"), "blur takes no value"),
        (lambda: Fault("missing", target=2), "got 2"),
        (lambda: truth_of(ONE, Fault("wrong_relation")), "wrong_relation"),
        (lambda: truth_of(ONE, Fault("missing", target=1)), "target 1"),
        (lambda: truth_of(TWO, Fault("missing"), Fault("cut_off")), "cut_off.*missing"),
        (lambda: truth_of(TWO, Fault("blur"), Fault("blur", 0.5)), "blur given twice"),
        (
            lambda: truth_of(TWO, Fault("wrong_colour", value="red")),
            "another value than the scene's, got 'red'",
        ),
        (lambda: replace(shapes.TRAIN, images=(1, 3)), r"\(1, 3\)"),
        (lambda: replace(shapes.TRAIN, good=2), "good.*2"),
        (lambda: replace(shapes.TRAIN, semantic=(("blur", 1.0),)), "blur"),
        (lambda: replace(shapes.TRAIN, tie_width=-0.1), "-0.1"),
        pytest.param(
            lambda: shapes.make_group(rng(), replace(shapes.TRAIN, size=16, tie_width=1.0)),
            r"Lower tie_width \(1.0\)",
            marks=pytest.mark.slow,
        ),
        (
            lambda: shapes.sample_faults(ONE, rng(), replace(shapes.TRAIN, **RELATION_ONLY)),
            "none of the config's faults is possible",
        ),
        (lambda: shapes.Truth.of(1.2, 1.0), "alignment.*1.2"),
    ],
)
def test_errors_name_the_invalid_value(call, named):
    with pytest.raises(ValueError, match=named):
        call()


def test_making_groups_imports_only_numpy_and_pillow():
    code = (
        "import sys, types;"
        "root = sys.modules['reward_core'] = types.ModuleType('reward_core');"
        "root.__path__ = [sys.argv[1]];"
        "import reward_core.shapes as s;"
        "next(s.make_groups(1));"
        "assert not {'torch', 'transformers', 'rich', 'scipy'} & set(sys.modules)"
    )
    folder = shapes.__path__[0].rsplit("shapes", 1)[0]
    subprocess.run([sys.executable, "-c", code, folder], check=True, timeout=60)
