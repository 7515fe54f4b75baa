"""Best of n: generate an image for each of n seeds, score all, and return the best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from PIL import Image

from ...errors import InputError
from ...inputs.tokenizer import check_prompts
from ...scoring.batching import is_out_of_memory
from ...scoring.rewards import ranking, scorer_rewards
from ...scoring.scorer import Scorer
from .drop_plan import DropPlan, PredictedRewards
from .early_dropping import EarlyDropping, step_count
from .pipeline_call import check_call, replaces_prompt, value_for_rows

OURS = ("generator", "latents", "num_images_per_prompt", "output_type", "return_dict")


@dataclass(frozen=True)
class Candidate:
    """One candidate of a best-of-n.

    Attributes:
        prompt: the prompt.
        seed: ``pipe(prompt, generator=torch.Generator("cpu").manual_seed(seed))`` generates the same image
            (with the same embeddings instead of the prompt, if there were any).
        image: the image; None if the candidate was dropped.
        reward: reward of the image; None if it was dropped or blacked out.
        steps: number of its denoising steps.
        predictions: (steps done, reward of the predicted image) of each check.
        dropped: whether it was dropped early.
        flagged: whether the pipeline's safety checker blacked out the image.
    """

    prompt: str
    seed: int
    image: Image.Image | None = None
    reward: float | None = None
    steps: int = 0
    predictions: tuple[tuple[int, float], ...] = ()
    dropped: bool = False
    flagged: bool = False


@dataclass(frozen=True)
class BestOf:
    """The candidates of one prompt, in order of their seeds.

    Attributes:
        prompt: the prompt.
        candidates: the candidates.
        full_steps: number of denoising steps of a candidate that is not dropped.
    """

    prompt: str
    candidates: tuple[Candidate, ...]
    full_steps: int

    @property
    def best(self) -> Candidate:
        """The candidate with the highest reward.

        Raises:
            InputError: the pipeline's safety checker blacked out every image.
        """
        ranked = self.ranked
        if not ranked:
            raise InputError(
                f"Cannot choose an image for {self.prompt!r}: the safety checker blacked out all of them."
            )
        return ranked[0]

    @property
    def ranked(self) -> tuple[Candidate, ...]:
        """The candidates with a reward, best first; ties in order of their seeds."""
        scored = [c for c in self.candidates if c.reward is not None]
        ranks = ranking([c.reward for c in self.candidates if c.reward is not None])
        return tuple(candidate for _, candidate in sorted(zip(ranks, scored), key=lambda pair: pair[0]))

    @property
    def rewards(self) -> list[float | None]:
        """The reward of each candidate, or None, in order of the seeds."""
        return [candidate.reward for candidate in self.candidates]

    @property
    def steps_saved(self) -> float:
        """The fraction of denoising steps, in [0, 1), that dropping saved."""
        return 1 - sum(c.steps for c in self.candidates) / (self.full_steps * len(self.candidates))


@overload
def best_of(pipe: Any, prompt: str, n: int, scorer: Scorer | str, **options: Any) -> BestOf: ...
@overload
def best_of(
    pipe: Any, prompt: Sequence[str], n: int, scorer: Scorer | str, **options: Any
) -> list[BestOf]: ...


def best_of(
    pipe: Any,
    prompt: str | Sequence[str],
    n: int,
    scorer: Scorer | str,
    *,
    seed: int = 0,
    seeds: Sequence[int] | None = None,
    batch_size: int = 8,
    early: DropPlan | None = None,
    preview_vae: Any = None,
    **call: Any,
) -> BestOf | list[BestOf]:
    """Generate n images for each prompt and score them.

    Args:
        pipe: a text-to-image pipeline of diffusers that accepts ``prompt`` and a list of generators.
        prompt: one prompt, or several.
        n: candidates per prompt.
        scorer: a Scorer, or a name or folder for ``reward_core.load``.
        seed: the candidates of each prompt have the seeds seed, seed + 1, ...
        seeds: n seeds to use instead.
        batch_size: images to generate per batch, possibly of different prompts; halved on out-of-memory. A
            seed gives the same image in any batch, up to rounding.
        early: when to drop candidates early; None: never. The best of a batch are kept; candidates of a
            later batch must also beat those of the same prompt in earlier batches.
        preview_vae: see ``EarlyDropping``.
        call: other arguments of the pipeline (num_inference_steps, guidance_scale, height, ...).
            negative_prompt, prompt_2, ... may be one text, or a list with one text per prompt. If
            prompt_embeds (P, ...) is given, with one row for each of P prompts, the pipeline uses it, and
            only the scorer uses ``prompt``; so prompts may be longer than the pipeline's tokenizer allows.
            pooled_prompt_embeds, negative_prompt_embeds, prompt_attention_mask, ... work the same way.

    Returns:
        A BestOf for a string, or a list of BestOf for a list of prompts.

    Raises:
        InputError: there is no prompt, n is below 1, the number of seeds is not n, an argument is one that
            best_of sets itself, or embeddings do not match the number of prompts.
        NonFiniteRewardError: a reward is NaN or infinite.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    check_prompts(prompts)
    seeds = list(range(seed, seed + n)) if seeds is None else [int(s) for s in seeds]
    if n < 1 or len(seeds) != n:
        raise InputError(
            f"Cannot use n={n} with {len(seeds)} seeds: n must be at least 1 and equal the number of seeds."
        )
    if batch_size < 1:
        raise InputError(f"Cannot use batch_size={batch_size}: it must be at least 1.")
    reserved = [name for name in (*OURS, *(("callback_on_step_end",) if early else ())) if name in call]
    if reserved:
        raise InputError(f"Cannot pass {', '.join(reserved)}: best_of sets them itself. Leave them out.")
    check_call(call, len(prompts))
    if isinstance(scorer, str):
        from ...models.load import load

        scorer = load(scorer)
    run = _Run(pipe, prompts, seeds, scorer, early, preview_vae, call)
    # Ordered by prompt, so that most candidates of a prompt compete in the same batch.
    pairs = [(p, s) for p in range(len(prompts)) for s in range(n)]
    candidates = [candidate for batch in _batches(run, pairs, batch_size) for candidate in batch]
    full = step_count(pipe)
    results = [BestOf(text, tuple(candidates[i * n : (i + 1) * n]), full) for i, text in enumerate(prompts)]
    return results[0] if isinstance(prompt, str) else results


def _name(candidate: Candidate) -> str:
    return f"the candidate of seed {candidate.seed} for {candidate.prompt!r}"


def _batches(run: _Run, pairs: list[tuple[int, int]], size: int) -> Iterator[list[Candidate]]:
    start = 0
    while start < len(pairs):
        try:
            result = run.batch(pairs[start : start + size])
        except Exception as error:
            if size == 1 or not is_out_of_memory(error):
                raise
            size //= 2
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            continue
        yield result
        start += size


@dataclass
class _Run:
    pipe: Any
    prompts: list[str]
    seeds: list[int]
    scorer: Scorer
    early: DropPlan | None
    preview_vae: Any
    call: dict[str, Any]

    def __post_init__(self):
        self.history = PredictedRewards()

    def batch(self, pairs: list[tuple[int, int]]) -> list[Candidate]:
        """Generate and score the candidates of (prompt index, seed index) pairs in one pipeline call."""
        prompts = [self.prompts[p] for p, _ in pairs]
        candidates = [Candidate(self.prompts[p], self.seeds[s]) for p, s in pairs]
        # On the CPU, so that a seed gives the same image on every machine.
        generators = [torch.Generator("cpu").manual_seed(c.seed) for c in candidates]
        rows = [p for p, _ in pairs]
        call = {
            name: value_for_rows(name, value, rows, len(self.prompts)) for name, value in self.call.items()
        }
        call["prompt"] = None if replaces_prompt(call) else prompts
        if self.early is None:
            output = self.pipe(generator=generators, **call)
            steps = step_count(self.pipe)
            finished = [replace(c, steps=steps) for c in candidates]
            return self._scored(finished, list(range(len(pairs))), output)
        history = self.history.copy()  # so that a batch that runs out of memory changes nothing
        drop = EarlyDropping(
            self.pipe,
            prompts,
            self.scorer,
            self.early,
            groups=rows,
            history=history,
            height=call.get("height"),
            width=call.get("width"),
            preview_vae=self.preview_vae,
            names=[_name(c) for c in candidates],
        )
        with drop:
            output = self.pipe(generator=generators, callback_on_step_end=drop, **call)
        alive = set(drop.alive)
        results = [
            replace(c, steps=drop.steps[i], predictions=tuple(drop.predictions[i]), dropped=i not in alive)
            for i, c in enumerate(candidates)
        ]
        scored = self._scored(results, drop.alive, output)
        self.history = history
        return scored

    def _scored(self, candidates: list[Candidate], rows: list[int], output: Any) -> list[Candidate]:
        """Return the candidates with the images and rewards of the given rows filled in."""
        flags = getattr(output, "nsfw_content_detected", None) or [False] * len(rows)
        for row, image, flagged in zip(rows, output.images, flags):
            candidates[row] = replace(candidates[row], image=image, flagged=bool(flagged))
        images = {row: image for row, image, flagged in zip(rows, output.images, flags) if not flagged}
        if images:
            prompts = [candidates[row].prompt for row in images]
            names = [_name(candidates[row]) for row in images]
            scores = self.scorer.score_pairs(prompts, list(images.values()))
            rewards = scorer_rewards(self.scorer, scores, names)
            for row, reward in zip(images, rewards):
                candidates[row] = replace(candidates[row], reward=reward)
        return candidates
