"""Training runs of a few steps on a tiny pipeline, with a reward for red images."""

from PIL import Image

import refl

PROMPTS = ["a red house by the sea", "two cats", "a boat", "the moon over a field"]


def redness(pixels, prompts):
    return 10 * (pixels[:, 0] - pixels[:, 1] / 2 - pixels[:, 2] / 2).mean((1, 2))


def write_images(folder, count=4):
    """Write images with captions to a folder, and return it."""
    folder.mkdir(exist_ok=True)
    for i in range(count):
        Image.new("RGB", (40, 30), (40 * i, 100, 200)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"flat colour {i}")
    return folder


def settings(folder, *more, steps=2, size=16, reward="{name: red, phi: linear}"):
    given = [
        f"run.out={folder}",
        f"run.steps={steps}",
        "run.batch_size=2",
        f"rollout.height={size}",
        "rollout.steps=4",
        f"rewards=[{reward}]",
        "loss.reward_scale=1.0",
        "validation.prompts=2",
        "validation.every=0",
        "run.trackers=[]",
        "optimizer.weight_decay=0",
    ]
    return refl.load_config(None, None, [*given, *more])


def train(model, folder, *more, rewards=None, **options):
    trainer = refl.Trainer(model, PROMPTS, settings(folder, *more, **options), rewards or {"red": redness})
    trainer.train()
    return trainer, trainer.metrics.read()
