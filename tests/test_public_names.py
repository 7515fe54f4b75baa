"""The public names of each package: a name that appears or goes is a decision, not an accident."""

import importlib

import pytest

PUBLIC = {
    "reward_core": """
        ImageFeatures PromptFeatures RewardCoreError RewardModel Scorer available_models available_scores
        load load_score
    """,
    "reward_core.bulk": """
        BulkSettings BulkSummary HubDataset ImageFolder Manifest Tars score_to_file
    """,
    "reward_core.metadata": """
        SCORE_KEY FoundPrompt StoredScore check_key read_prompt read_score read_score_keys read_stored_score
        read_texts write_score
    """,
    "reward_core.rankings": """
        RANKINGS_FILE SPLITS ImageReport RankedPrompt check_images read_rankings read_splits untied_pairs
        write_rankings
    """,
    "reward_core.training": """
        PRESETS AnnotatedImage CaptionedImage PatchReader PretrainingConfig Trainer TrainingConfig
        caption_loss initialize_from_scratch load_settings pairs_from_ranking pairwise_accuracy
        patch_loss pretrain ranking_loss starting_model
    """,
    "reward_core.shapes": """
        CLEANLINESS COLORS HELD_OUT MAGNITUDES PALETTE PATCH_COLUMNS RADII RELATIONS SEMANTIC SHAPES
        SIZES SPLITS TRAIN VOCABULARY Annotation Background Drawing Fault FoundThing Group GroupConfig
        Mark Reading RenderedImage Scene Split Thing Truth alignment all_scenes all_wordings annotate
        check_faults cleanliness draw_scene hard_negatives load_split magnitude make_group make_groups
        make_image near_miss nearest_color nearest_shape oracle oracle_batch paint parse phrase rank
        rasterize read_image recolor render_scene sample_faults sample_scene shows_held_out split_of
        strength_of write_groups
    """,
    "reward_core.integrations.diffusers": """
        BestOf Candidate DropPlan EarlyDropping PredictedRewards best_of predicted_clean
    """,
    "refl": """
        ReflError TrainConfig Trainer load_config parse_args
    """,
}


@pytest.mark.parametrize("package", PUBLIC)
def test_the_public_names_of_a_package_are_these(package):
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(PUBLIC[package].split())
    assert all(hasattr(module, name) for name in module.__all__)
