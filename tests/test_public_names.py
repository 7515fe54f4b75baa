"""The public names of each package: a name that appears or goes is a decision, not an accident."""

import importlib
import inspect

import pytest

PUBLIC = {
    "reward_core": """
        ImageFeatures PromptFeatures RewardCoreError RewardModel Scorer ScorerGroup available_models
        available_scores load load_score
    """,
    "reward_core.app": """
        Limits Models build_page serve
    """,
    "reward_core.bulk": """
        BulkSettings BulkSummary HubDataset ImageFolder Manifest Tars score_to_file
    """,
    "reward_core.integrations.diffusers": """
        BestOf Candidate DropPlan EarlyDropping PredictedRewards best_of predicted_clean
    """,
    "reward_core.metadata": """
        FoundPrompt SCORE_KEY StoredScore check_key read_prompt read_score read_score_keys
        read_stored_score read_texts write_score
    """,
    "reward_core.prepare": """
        Prepared SUBSETS SplitFigures prepare_imagerewarddb prepare_rankings
    """,
    "reward_core.rankings": """
        ImageReport RANKINGS_FILE RankedPrompt SPLITS check_images read_rankings read_splits
        untied_pairs write_rankings
    """,
    "reward_core.shapes": """
        Annotation Background CLEANLINESS COLORS Drawing Fault FoundThing Group GroupConfig HELD_OUT
        MAGNITUDES Mark PALETTE PATCH_COLUMNS RADII RELATIONS Reading RenderedImage SEMANTIC SHAPES
        SIZES SPLITS Scene Split TRAIN Thing Truth VOCABULARY alignment all_scenes all_wordings
        annotate check_faults cleanliness draw_scene hard_negatives load_split magnitude make_group
        make_groups make_image near_miss nearest_color nearest_shape oracle oracle_batch paint parse
        phrase rank rasterize read_image recolor render_scene sample_faults sample_scene
        shows_held_out split_of strength_of write_groups
    """,
    "reward_core.training": """
        AnnotatedImage CaptionedImage PRESETS PatchReader PretrainingConfig Trainer TrainingConfig
        caption_loss initialize_from_scratch load_settings pairs_from_ranking pairwise_accuracy
        patch_loss pretrain ranking_loss starting_model
    """,
    "refl": """
        ReflError TrainConfig Trainer load_config parse_args
    """,
    "refl.objectives.advantages": """
        advantages to_unit
    """,
    "refl.objectives.losses": """
        denoising_loss distance grpo_loss nft_loss
    """,
    "refl.rewards": """
        AnyReward Reward Rewards load_rewards
    """,
    "refl.rewards.reward_loss": """
        ensemble reward_loss
    """,
    "refl.denoising.random_steps": """
        log_prob noise_scales random_schedule
    """,
    "refl.families": """
        Condition Family Guidance family_of load_family
    """,
    "reward_benchmark.metrics": """
        GeneratorTable Interval MIN_IMAGES PairedComparison PreferenceTable Resamples average_ranks
        compare_scorers filtered_at generator_table kendall preference_table recalled_at
        sign_flip_test spearman
    """,
    "reward_benchmark.suites": """
        Group Part SUITES SuiteOptions build_suite
    """,
}

#: Modules without an __all__ whose classes are public.
CLASSES = {
    "reward_core.errors": """
        AnswerError CheckpointError ClippedLevelsWarning CompilationWarning DataWarning DiskFullError
        EmptyPromptWarning HubError ImageError ImageNotFoundError InputError KeyMismatchError
        MissingExtraError NonFiniteRewardError OutputError PromptTruncatedWarning PromptTypeError
        PromptWithoutImageWarning RequestError RewardCoreError RoundedWeightsWarning RunInterrupted
        ServerError StaleScoresWarning TrainingError WorkerError
    """,
    "refl.errors": """
        ConfigError DivergedError ModelError PromptFileError ReflError RewardError
    """,
    "reward_core.integrations.torchmetrics": """
        RewardScore
    """,
    "reward_core.models.judges.answer_cache": """
        AnswerCache
    """,
    "reward_core.models.visionreward.checklist": """
        Checklist ChecklistQuestion
    """,
    "reward_core.models.visionreward.explanation": """
        ExplainedAnswer Explanation
    """,
    "reward_core.models.visionreward.scorer": """
        ChecklistReward
    """,
    "reward_core.models.visionreward.vlm": """
        ChecklistVLM
    """,
    "reward_core.models.judges.answers": """
        Answer Question VLM
    """,
    "reward_core.models.judges.judge": """
        Judge Judgment PointwiseJudge
    """,
    "reward_core.models.judges.local_vlm": """
        LocalVLM
    """,
    "reward_core.models.judges.pairwise": """
        Comparison PairwiseJudge
    """,
    "reward_core.models.judges.server": """
        ServerVLM
    """,
    "reward_core.models.judges.templates": """
        JudgeTemplate
    """,
}


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names(package):
    module = importlib.import_module(package)
    assert sorted(module.__all__) == PUBLIC[package].split()
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("name", CLASSES)
def test_public_classes(name):
    module = importlib.import_module(name)
    classes = [
        name
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and not name.startswith("_")
    ]
    assert sorted(classes) == CLASSES[module.__name__].split()
