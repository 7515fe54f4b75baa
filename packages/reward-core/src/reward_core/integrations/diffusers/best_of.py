"""Best of n: images of one prompt from n seeds, scored, the best first at hand."""

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
    """One image of a best-of-n, or what is known of it where it was dropped.

    Attributes:
        prompt: what was asked for.
        seed: ``pipe(prompt, generator=torch.Generator("cpu").manual_seed(seed))`` draws it again (with
            the same embeddings instead of the prompt, if there were any).
        image: None if it was dropped.
        reward: of the finished image; None if it was dropped or blacked out.
        steps: denoising steps it went through.
        predictions: (steps done, reward of the predicted image) of each check it had.
        dropped: whether it was given up early.
        flagged: whether the pipeline's safety checker blacked it out.
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
    """All candidates of a prompt, in order of their seeds, and the steps a full run would have had."""

    prompt: str
    candidates: tuple[Candidate, ...]
    full_steps: int

    @property
    def best(self) -> Candidate:
        """The candidate of the highest reward.

        Raises:
            InputError: every finished image was blacked out by the pipeline's safety checker.
        """
        ranked = self.ranked
        if not ranked:
            raise InputError(f"{self.prompt!r}: the safety checker blacked out every image")
        return ranked[0]

    @property
    def ranked(self) -> tuple[Candidate, ...]:
        """The candidates that have a reward, best first; equal ones in order of their seeds."""
        scored = [c for c in self.candidates if c.reward is not None]
        ranks = ranking([c.reward for c in self.candidates if c.reward is not None])
        return tuple(candidate for _, candidate in sorted(zip(ranks, scored), key=lambda pair: pair[0]))

    @property
    def rewards(self) -> list[float | None]:
        """Reward of each candidate in order of the seeds; None for those without."""
        return [candidate.reward for candidate in self.candidates]

    @property
    def steps_saved(self) -> float:
        """Share of denoising steps, in [0, 1), that dropping saved."""
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
    """Draw n images a prompt and score them all.

    Args:
        pipe: any text-to-image pipeline of diffusers that takes ``prompt`` and a list of generators.
        prompt: one, or several.
        n: candidates a prompt.
        scorer: a Scorer, or a name or folder for ``reward_core.load``.
        seed: candidates have the seeds seed, seed + 1, ..., the same for each prompt.
        seeds: n seeds to use instead.
        batch_size: images drawn at once, also of different prompts; halved when memory runs out. A seed
            gives the same image in any batch, up to rounding.
        early: drop hopeless candidates on the way; None: none are. Within a batch the best go on; those of
            a later batch must also beat the earlier ones of their prompt.
        preview_vae: see EarlyDropping.
        call: all else the pipeline takes (num_inference_steps, guidance_scale, height, negative_prompt, ...).
            negative_prompt, prompt_2, ... may be one text, or a list of one for each prompt. With
            prompt_embeds (P, ...), a row for each of P prompts, the pipeline gets these embeddings, and
            ``prompt`` is only what the scorer reads; so prompts may be longer than the pipeline's tokenizer
            takes. pooled_prompt_embeds, negative_prompt_embeds, prompt_attention_mask, ... are alike.

    Returns:
        A BestOf for a string, a list of them for a list.

    Raises:
        InputError: no prompt, n below 1, seeds of another number, an argument that best_of itself gives,
            embeddings for another number of prompts.
        NonFiniteRewardError: the scorer gave a reward that is NaN or infinite.
    """
    prompts = [prompt] if isinstance(prompt, str) else list(prompt)
    check_prompts(prompts)
    seeds = list(range(seed, seed + n)) if seeds is None else [int(s) for s in seeds]
    if n < 1 or len(seeds) != n:
        raise InputError(f"n must be at least 1, with as many seeds: got n={n} and {len(seeds)} seeds")
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    taken = [name for name in (*OURS, *(("callback_on_step_end",) if early else ())) if name in call]
    if taken:
        raise InputError(f"best_of itself gives the pipeline its {', '.join(taken)}; leave them out")
    check_call(call, len(prompts))
    if isinstance(scorer, str):
        from ...models.load import load

        scorer = load(scorer)
    run = _Run(pipe, prompts, seeds, scorer, early, preview_vae, call)
    # A prompt's candidates stand together, so that most compete within one batch.
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
        """The candidates at (prompt, seed) places, drawn in one call of the pipeline."""
        prompts = [self.prompts[p] for p, _ in pairs]
        candidates = [Candidate(self.prompts[p], self.seeds[s]) for p, s in pairs]
        # On the CPU, so that a seed means the same image on every machine.
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
        history = self.history.copy()  # a batch that memory did not suffice for leaves no trace
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
        known = [
            replace(c, steps=drop.steps[i], predictions=tuple(drop.predictions[i]), dropped=i not in alive)
            for i, c in enumerate(candidates)
        ]
        scored = self._scored(known, drop.alive, output)
        self.history = history
        return scored

    def _scored(self, candidates: list[Candidate], rows: list[int], output: Any) -> list[Candidate]:
        """The candidates with the images of some rows, and their rewards, filled in."""
        flags = getattr(output, "nsfw_content_detected", None) or [False] * len(rows)
        for row, image, flagged in zip(rows, output.images, flags):
            candidates[row] = replace(candidates[row], image=image, flagged=bool(flagged))
        shown = {row: image for row, image, flagged in zip(rows, output.images, flags) if not flagged}
        if shown:
            prompts = [candidates[row].prompt for row in shown]
            names = [_name(candidates[row]) for row in shown]
            answer = self.scorer.score_pairs(prompts, list(shown.values()))
            rewards = scorer_rewards(self.scorer, answer, names)
            for row, reward in zip(shown, rewards):
                candidates[row] = replace(candidates[row], reward=reward)
        return candidates
