"""The sections of a run's settings but the strategy, as frozen dataclasses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelConfig:
    """The diffusion model and what of it is trained.

    Attributes:
        id: model to fine-tune: a Hub id, a pipeline folder, or a single .safetensors or .ckpt file.
        revision: branch, tag or commit on the Hub; None: the repository's default branch.
        variant: variant of the weight files, such as "fp16"; None: the files without a variant.
        lora_rank: rank of the LoRA adapters, at least 1; 0 trains all weights of the denoiser instead.
        lora_alpha: LoRA alpha; the adapters' output is scaled by ``lora_alpha / lora_rank``. None: equal
            to ``lora_rank``, a scale of 1.
        lora_targets: names of the layers that get adapters; empty: the attention projections of the
            model's family (to_q, to_k, to_v and to_out.0; those of the text too in SD3 and FLUX.1).
        gradient_checkpointing: recompute activations block by block inside the denoiser (less memory,
            slower). The only gradient step of a rollout is then not recomputed as a whole too.
        compile: run the denoiser through torch.compile (slow first step, faster afterwards).
        offload_text_encoders: keep the text encoders in the CPU's memory, and copy them to the GPU whenever
            prompts are encoded (less memory, slower).
        vae_tiling: decode images in tiles (less memory for large images, slower).
        channels_last: store the denoiser's convolutions as channels-last (faster on GPUs).
    """

    id: str = "CompVis/stable-diffusion-v1-4"
    revision: str | None = None
    variant: str | None = None
    lora_rank: int = 16
    lora_alpha: float | None = None
    lora_targets: tuple[str, ...] = ()
    gradient_checkpointing: bool = False
    compile: bool = False
    offload_text_encoders: bool = False
    vae_tiling: bool = False
    channels_last: bool = False


@dataclass(frozen=True)
class RolloutConfig:
    """How images are generated during training and validation.

    Attributes:
        height: image height in pixels; 0: the model's native size.
        width: image width in pixels; 0: same as ``height``.
        steps: denoising steps per image, at least 1.
        sampler: ddim, ddpm or euler for Stable Diffusion 1, 2 and XL, flow for SD3 and FLUX.1; empty: the
            default of the model's family (SD: ddim, SDXL: euler, SD3 and FLUX.1: flow).
        guidance_scale: classifier-free guidance scale; 1 disables guidance, as in the paper. FLUX.1-dev
            takes the scale as an input of the model.
        negative_prompt: prompt for the unconditional branch of guidance; unused without guidance.
        negative_gradient: also backpropagate through the branch of the negative prompt.
        gradient_checkpointing: recompute the activations of gradient steps and of the decoder in the
            backward pass (much less memory, slower).
        no_grad_dtype: bf16 or fp16: compute the steps without gradient with a copy of the denoiser in this
            dtype, refreshed before each optimizer step; auto: bf16 if the GPU supports it, else fp16; no:
            compute them with the trained denoiser. None: the dtype of ``run.mixed_precision`` if that
            is half, unless ``model.compile`` is set. The copy shares frozen weights that have its dtype, and
            stores the convolutions of a UNet as channels-last. Validation does not use
            it, and of gradient steps only the forward pass, if ``gradient_graphs`` is forward.
        no_grad_compile: run that copy through torch.compile (slow first step, faster afterwards).
        no_grad_graphs: record that copy as CUDA graphs, so that a step is one launch (a GPU only). None:
            for denoisers of up to 4 billion parameters whose shapes are fixed, without ``no_grad_compile``.
        gradient_graphs: parts to record as CUDA graphs, so that each is one launch forward and one backward
            (a GPU only); the memory for their activations stays allocated. rewards: reward models of BLIP's
            kind; forward: also the forward pass of the gradient steps, by the copy of ``no_grad_dtype`` (on a
            CPU without graphs); denoiser: both passes of the trained denoiser instead; all: also the decoder;
            no: nothing. None: all for LoRA, denoisers of up to 4 billion parameters whose shapes are fixed
            and images of up to 512 x 512 pixels, unless text encoders are offloaded; else forward, if the
            copy is recorded and in the dtype of ``run.mixed_precision``, and ``loss.distance_weight`` is 0;
            otherwise rewards. It is also rewards if activations are kept, the denoiser is compiled, or
            ``model.gradient_checkpointing`` recomputes them block by block, with which forward, denoiser and
            all compute a third forward pass.
        decode_dtype: bf16 or fp16: decode training images under autocast (less memory, faster); no:
            float32. None: the dtype of ``run.mixed_precision``, as in the original. SDXL's VAEs that
            overflow in fp16 (``force_upcast`` in their config) are decoded in float32 instead of fp16.
    """

    height: int = 0
    width: int = 0
    steps: int = 40
    sampler: str = ""
    guidance_scale: float = 1.0
    negative_prompt: str = ""
    negative_gradient: bool = True
    gradient_checkpointing: bool = True
    no_grad_dtype: str | None = None
    no_grad_compile: bool = False
    no_grad_graphs: bool | None = None
    gradient_graphs: str | None = None
    decode_dtype: str | None = None


@dataclass(frozen=True)
class RewardConfig:
    """One reward.

    Attributes:
        name: any name, folder or file that reward_core.load or load_score accepts, such as
            "ImageReward-v1.0" or "CLIP", the name of a function passed to Trainer, or a function to import,
            as "module:function".
        weight: factor of this reward in the loss; 0: held out, logged and validated but not trained on.
        phi: how a reward r becomes a loss: relu (``max(target - r, 0)``, as in the paper), linear
            (``-r``) or clipped (``-min(r, target)``). The strategies nft and grpo compare the negative
            loss. Empty: linear for these two, relu for the others.
        target: reward above which relu and clipped give no gradient; unused by linear. In the reward's
            own units; most rewards of ImageReward are between -2 and 2.
        dtype: bf16 or fp16: compute the reward under autocast in this dtype (faster on a GPU); empty:
            float32.
        input: what the reward gets: images (a list of PIL images, 8-bit RGB as saved, and a list of
            prompts; it returns numbers and has no gradient) or pixels (a tensor (N, 3, H, W) in [0, 1]).
            Empty: for functions, images with the strategies nft and grpo and pixels with the others; for
            scorers, pixels if they accept them.
    """

    name: str = "ImageReward-v1.0"
    weight: float = 1.0
    phi: str = ""
    target: float = 2.0
    dtype: str = ""
    input: str = ""


@dataclass(frozen=True)
class LossConfig:
    """The terms of the loss: rewards, distance to the base, denoising loss.

    Attributes:
        reward_scale: factor of the reward loss (lambda in the paper). It sets its weight relative to the
            other terms; alone it has almost no effect, because Adam normalizes it away, unless gradients
            become as small as ``optimizer.epsilon``. None: 0.001 (the paper's) for strategies that need
            the reward's gradient, 1 for nft and grpo.
        ensemble: how several trained rewards, each times its weight, become one: sum, min (the lowest
            counts for each image) or lower (their mean minus ``ensemble_k`` standard deviations). min and
            lower are harder to hack; weights must bring the rewards to one scale, unless
            ``strategy.combine`` is zscore.
        ensemble_k: number of standard deviations that lower subtracts, at least 0.
        distance: what the distance to the base model compares: x0 (predicted clean latents), epsilon
            (predicted noise) or v (predicted velocity, which weighs noise levels more evenly).
        distance_weight: factor of the mean squared distance to the base model over the gradient steps, the
            trained noise levels of nft or the random steps of grpo; 0: no distance term. With all weights
            trained, it needs a second copy of the denoiser.
        pretraining_data: images with captions for the ordinary denoising loss: a folder, a pattern of
            .tar files, or a dataset id for ``datasets``; empty: no such term.
        pretraining_weight: factor of the ordinary denoising loss; unused without ``pretraining_data``.
        pretraining_batch_size: captioned images per process and microstep, at least 1.
        image_column: column of the images, if ``pretraining_data`` is a dataset.
        caption_column: column of the captions, if ``pretraining_data`` is a dataset.
    """

    reward_scale: float | None = None
    ensemble: str = "sum"
    ensemble_k: float = 1.0
    distance: str = "x0"
    distance_weight: float = 0.0
    pretraining_data: str = ""
    pretraining_weight: float = 1.0
    pretraining_batch_size: int = 2
    image_column: str = "image"
    caption_column: str = "text"


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, the learning-rate schedule and the moving average of the weights.

    Attributes:
        lr: peak learning rate, at least 0.
        schedule: learning rate after the warm-up: constant (constant_with_warmup means the same), or
            linear or cosine decay to 0 at ``run.steps``.
        warmup_steps: optimizer steps over which the learning rate rises linearly from 0 to ``lr``; every
            schedule uses it. 0: no warm-up.
        beta1: decay of AdamW's running mean of the gradient, in [0, 1).
        beta2: decay of AdamW's running mean of the squared gradient, in [0, 1).
        epsilon: constant that AdamW adds to its denominator.
        weight_decay: decoupled weight decay; 0: none.
        max_grad_norm: global norm to which larger gradients are clipped; 0: no clipping.
        eight_bit: keep the optimizer state in 8 bits (needs bitsandbytes and a GPU).
        ema_decay: decay of the exponential moving average (EMA) of the weights, in [0, 1); 0: no average.
            With an average, its weights are the ones validated and saved.
    """

    lr: float = 1e-4
    schedule: str = "constant"
    warmup_steps: int = 0
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    eight_bit: bool = False
    ema_decay: float = 0.0


@dataclass(frozen=True)
class ValidationConfig:
    """Validation on fixed prompts and seeds, and early stopping.

    Attributes:
        every: optimizer steps between validations; 0: validate only before the first and after the last
            step.
        prompts: number of validation prompts, taken from the end of the prompt file; 0: no validation.
            They are left out of training if the file has at least four times as many prompts.
        prompts_file: file of validation prompts, in the formats of ``prompts``; all of them are used, instead
            of prompts of the training file. Empty: none.
        seeds: images per prompt, at least 1.
        batch_size: images generated at once by each process; 0: same as ``run.batch_size``.
        steps: denoising steps; 0: same as ``rollout.steps``.
        stop_reward: name of the reward that stops the run when it falls, usually a held-out one; empty:
            no reward stops the run.
        stop_patience: validations in a row below the best ``stop_reward`` before the run stops, at least 1.
        stop_diversity: stop when images of one prompt differ by less than this share of what they differed
            before training, such as 0.7; 0: never. Needs at least 2 ``seeds``.
        keep_best: save the weights of the validation with the best ``stop_reward``, instead of the last
            weights. Validations below ``stop_diversity`` do not count.
    """

    every: int = 50
    prompts: int = 8
    prompts_file: str = ""
    seeds: int = 2
    batch_size: int = 0
    steps: int = 0
    stop_reward: str = ""
    stop_patience: int = 2
    stop_diversity: float = 0.0
    keep_best: bool = False


@dataclass(frozen=True)
class RunConfig:
    """Length, batch size, precision, output and checkpoints of the run.

    Attributes:
        out: output folder; everything the run writes goes into it.
        steps: number of optimizer steps.
        batch_size: images per process and microstep, at least 1.
        accumulation: microsteps per optimizer step, at least 1. An optimizer step sees
            ``batch_size * accumulation * processes`` images.
        seed: seed of data order, noise, adapter weights and random choices of the strategy.
        mixed_precision: no (float32), bf16 or fp16. Trained weights stay float32.
        tf32: allow TF32 matrix multiplications and convolutions on a GPU (faster, less precise) in training
            steps and validations, except in forward passes of rewards. The process's setting is restored.
        checkpoint_every: optimizer steps between checkpoints; 0: only at the end.
        checkpoints: number of most recent checkpoints to keep, at least 1.
        trackers: trackers of accelerate to log to, such as tensorboard or wandb; "all" for every installed
            one; empty: only metrics.jsonl.
        cpu: train on the CPU even if a GPU is available.
        push_to_hub: Hub repository to upload the result to, such as "me/my-model"; empty: no upload.
    """

    out: str = "runs/refl"
    steps: int = 100
    batch_size: int = 2
    accumulation: int = 1
    seed: int = 42
    mixed_precision: str = "no"
    tf32: bool = True
    checkpoint_every: int = 50
    checkpoints: int = 2
    trackers: tuple[str, ...] = ("tensorboard",)
    cpu: bool = False
    push_to_hub: str = ""
