"""Train the tiny pipeline bundled with refl from scratch on ShapesBench.

    python tools/make_tiny_pipeline.py --work work --out tiny

There are four stages, with classes of diffusers and transformers: train a text encoder, train an
autoencoder, encode captioned images to latents, train a latent UNet. Everything is seeded. The folder --work
keeps finished stages: the same command resumes from it, also with more UNet steps. The result is a folder
for `StableDiffusionPipeline.from_pretrained`, with a model card (README.md) that describes the training and
the scores of its images by ShapesBench's oracle.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from statistics import fmean

import torch
from diffusers import AutoencoderTiny, StableDiffusionPipeline
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tiny_pipeline.autoencoder import encode, image_pool, make_autoencoder, to_tensor, train_autoencoder
from tiny_pipeline.card import measure, model_card
from tiny_pipeline.text import make_tokenizer, tokens_of, train_text_encoder
from tiny_pipeline.unet import Latents, UNetTraining, make_scheduler, make_unet
from transformers import CLIPTextModel

from refl.demo.scenes import captioned_images
from refl.demo.study import processor
from reward_core import shapes
from reward_core.runs.cpus import usable_cpus

COLUMNS = [TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn()]
DATA_SEED = 1000  # seed of the training images; the prompts of the card's scores use another one


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the pipeline")
    parser.add_argument("--work", type=Path, required=True, help="folder for finished stages")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and training")
    parser.add_argument("--text-steps", type=int, default=1000, help="text steps of 64 prompts")
    parser.add_argument("--autoencoder-steps", type=int, default=2500, help="autoencoder steps of 24 images")
    parser.add_argument("--pictures", type=int, default=40_000, help="images to train the UNet on")
    parser.add_argument("--unet-steps", type=int, default=6000, help="UNet steps of 32 latents")
    parser.add_argument(
        "--as-it-stands", action="store_true", help="write the pipeline without further UNet training"
    )
    parser.add_argument("--prompts", type=int, default=200, help="prompts of each kind to score for the card")
    return parser.parse_args()


class Stages:
    """The training stages; each has a file or folder in the work folder."""

    def __init__(self, args: argparse.Namespace, console: Console, progress: Progress):
        self.args, self.console, self.progress = args, console, progress
        self.tokenizer = make_tokenizer()
        self.minutes_file = args.work / "minutes.json"
        args.work.mkdir(parents=True, exist_ok=True)

    def text_encoder(self) -> CLIPTextModel:
        folder = self.args.work / "text_encoder"
        if not folder.is_dir():
            with self._stage("text", self.args.text_steps) as on_step:
                model = train_text_encoder(self.tokenizer, self.args.text_steps, self.args.seed, on_step)
            _save_atomically(model, folder)
        return CLIPTextModel.from_pretrained(folder).requires_grad_(False).eval()

    def autoencoder(self) -> AutoencoderTiny:
        folder = self.args.work / "autoencoder"
        if not folder.is_dir():
            pool = image_pool(self.args.autoencoder_steps, self.args.seed + DATA_SEED)
            with self._stage("autoencoder", self.args.autoencoder_steps) as on_step:
                vae = make_autoencoder()
                train_autoencoder(vae, pool, self.args.autoencoder_steps, self.args.seed, on_step)
            _save_atomically(vae, folder)
        return load_autoencoder(folder)

    def latents(self, vae: AutoencoderTiny, encoder: CLIPTextModel) -> Latents:
        """Load the latents and text features, or compute them (about a minute)."""
        file = self.args.work / "latents.pt"
        if not file.is_file():
            count, parts, prompts = self.args.pictures, [], []
            with self._stage("latents", count) as on_step:
                images = captioned_images(count, self.args.seed + DATA_SEED)
                batch: list = []
                for number, (pixels, prompt) in enumerate(images, start=1):
                    batch.append(pixels)
                    prompts.append(prompt)
                    if len(batch) == 256 or number == count:
                        parts.append(encode(vae, to_tensor(batch)))
                        batch = []
                        on_step(number, 0.0)
            temporary = file.with_name(".latents.pt")
            torch.save({"latents": torch.cat(parts), "prompts": prompts}, temporary)
            os.replace(temporary, file)
        stored = torch.load(file, weights_only=True, mmap=True)
        wordings = [shapes.all_wordings(shapes.parse(prompt)) for prompt in stored["prompts"]]
        indices = {text: i for i, text in enumerate(dict.fromkeys(w for texts in wordings for w in texts))}
        with torch.no_grad():
            ids = tokens_of(self.tokenizer, list(indices))
            texts = torch.cat([encoder(batch).last_hidden_state.half() for batch in ids.split(512)])
            empty = encoder(tokens_of(self.tokenizer, [""])).last_hidden_state[0]
        of = torch.tensor([[indices[text] for text in texts_of_image] for texts_of_image in wordings])
        return Latents(stored["latents"], texts, of, empty)

    def unet(self, vae: AutoencoderTiny, encoder: CLIPTextModel) -> UNetTraining:
        torch.manual_seed(self.args.seed)
        training, file = UNetTraining(make_unet(), self.args.seed), self.args.work / "unet.pt"
        if file.is_file():
            training.load(file)
        if training.step < self.args.unet_steps and not self.args.as_it_stands:
            data = self.latents(vae, encoder)
            with self._stage("unet", self.args.unet_steps, training.step) as on_step:
                training.run(data, self.args.unet_steps, on_step, file)
        return training

    def minutes(self) -> dict[str, float]:
        return json.loads(self.minutes_file.read_text()) if self.minutes_file.is_file() else {}

    def _stage(self, name: str, steps: int, done: int = 0) -> _Stage:
        return _Stage(self, name, steps, done)


class _Stage:
    """Progress bar, log lines and processor time of a stage."""

    def __init__(self, stages: Stages, name: str, steps: int, done: int):
        self.stages, self.name, self.losses = stages, name, []
        self.task = stages.progress.add_task(name, total=steps, completed=done)

    def __enter__(self):
        self.started = time.process_time()
        return self.on_step

    def on_step(self, step: int, loss: float) -> None:
        self.losses.append(loss)
        self.stages.progress.update(self.task, completed=step)
        if step % 100 == 0 and loss:
            seconds = time.process_time() - self.started
            loss = fmean(self.losses[-100:])
            self.stages.console.print(f"{self.name}, step {step}: loss {loss:.4f}, {seconds:.0f} s")

    def __exit__(self, kind, *_) -> None:
        minutes = self.stages.minutes()
        minutes[self.name] = (time.process_time() - self.started) / 60
        self.stages.minutes_file.write_text(json.dumps(minutes))


def load_autoencoder(folder: Path) -> AutoencoderTiny:
    return AutoencoderTiny.from_pretrained(folder).requires_grad_(False).eval()


def _save_atomically(model: torch.nn.Module, folder: Path) -> None:
    """Save a model so that the folder exists only when it is complete."""
    temporary = folder.with_name(f".{folder.name}")
    model.save_pretrained(temporary)
    _clean_config(temporary)
    os.replace(temporary, folder)


def main() -> None:
    args, console = arguments(), Console()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", usable_cpus())))
    with Progress(*COLUMNS, console=console) as progress:
        stages = Stages(args, console, progress)
        encoder = stages.text_encoder()
        vae = stages.autoencoder()
        training = stages.unet(vae, encoder)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder,
        tokenizer=stages.tokenizer,
        unet=training.ema_model(),
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    # The text encoder stays float32: transformers loads the stored dtype, diffusers float32, and the two must
    # match.
    pipeline.unet.half()
    pipeline.vae.half()
    save_pipeline(pipeline, args.out)
    figures = measure(args.out, args.prompts)  # measures the saved files
    threads, version = torch.get_num_threads(), torch.__version__
    machine = f"{threads} of {usable_cpus()} cores of an {processor()} (torch {version})"
    # The UNet's time includes earlier runs that were interrupted.
    minutes = stages.minutes() | {"unet": training.seconds / 60}
    card = model_card(args, training.step, minutes, machine, figures)
    (args.out / "README.md").write_text(card, encoding="utf-8")
    console.print(card, markup=False)


def save_pipeline(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    pipeline.save_pretrained(folder)
    _clean_config(folder / "vae")


def _clean_config(folder: Path) -> None:
    """Remove keys that diffusers warns about, and paths of this machine."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for key in ("block_out_channels", "_name_or_path"):
        config.pop(key, None)
    path.write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
