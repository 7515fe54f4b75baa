"""A minimal Stable Diffusion WebUI: the interfaces that the extension uses, and the generation loop.

Its interfaces behave like those of AUTOMATIC1111 1.10.1 and Forge: the order of method calls, the format of
parameters, and that an exception in a script is reported and the generation continues.
"""

import contextlib
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from reward_core import shapes

EXTENSION = Path(__file__).parents[1] / "tools" / "sd_webui"


def module(name, **contents):
    made = types.ModuleType(name)
    vars(made).update(contents)
    return made


class BaseScript:
    """modules.scripts.Script."""

    filename = None
    is_img2img = False

    def elem_id(self, item):
        return f"script_{item}"

    def process(self, p, *args):
        pass

    def postprocess_image_after_composite(self, p, pp, *args):
        pass

    def postprocess(self, p, processed, *args):
        pass


class Host:
    """The host. opts: its settings. errors: exceptions of scripts."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.opts = types.SimpleNamespace(grid_only_if_multiple=True, return_grid=True)
        self.errors = []
        self.scheduled = []
        shared = module("modules.shared", opts=self.opts)
        self.modules = {
            "modules": module("modules"),
            "modules.scripts": module("modules.scripts", Script=BaseScript, AlwaysVisible=object()),
            "modules.shared": shared,
            "modules.devices": module(
                "modules.devices",
                without_autocast=contextlib.nullcontext,
                get_optimal_device=lambda: torch.device("cpu"),
            ),
            "modules.images": module("modules.images", image_grid=image_grid),
            "modules.extra_networks": module("modules.extra_networks", parse_prompt=parse_prompt),
            "modules.prompt_parser": module(
                "modules.prompt_parser",
                get_learned_conditioning_prompt_schedules=lambda prompts, steps: [
                    [[steps, prompt]] for prompt in prompts
                ],
                parse_prompt_attention=parse_prompt_attention,
            ),
        }
        for name, made in self.modules.items():
            if "." in name:
                setattr(self.modules["modules"], name.split(".")[1], made)

    def load_script(self):
        """Act like "Reload UI": run the file in scripts/ again, without reloading its imports."""
        path = EXTENSION / "scripts" / "image_reward.py"
        sys.path.insert(0, str(EXTENSION))
        try:
            spec = importlib.util.spec_from_file_location("image_reward.py", path)
            loaded = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(loaded)
        finally:
            sys.path.remove(str(EXTENSION))
        script = loaded.Script()
        script.filename = str(path)
        return script

    def generation(self, prompt, *, batch_size=1, n_iter=1, seed=1, chosen=None, **more):
        """Return the settings of a generation; ``chosen`` is the file name of the selected script."""
        runner = types.SimpleNamespace(selectable_scripts=[types.SimpleNamespace(filename=chosen)])
        return types.SimpleNamespace(
            prompt=prompt,
            batch_size=batch_size,
            n_iter=n_iter,
            seed=seed,
            steps=20,
            scripts=runner,
            script_args=(1 if chosen else 0,),
            extra_generation_params={},
            masks=False,
            stop_after=None,
            **more,
        )

    def process_images(self, p, script, args):
        self._call(script.process, p, *args)
        count = p.batch_size * p.n_iter
        p.all_prompts = p.prompt if isinstance(p.prompt, list) else [p.prompt] * count
        p.all_seeds = [p.seed + i for i in range(count)]
        images, infotexts = [], []
        for iteration in range(p.n_iter):
            p.iteration = iteration
            batch = slice(p.iteration * p.batch_size, (p.iteration + 1) * p.batch_size)
            p.prompts, p.seeds = p.all_prompts[batch], p.all_seeds[batch]
            p.extra_generation_params["VAE Decoder"] = (
                "Full"  # known only now, as some of the host's keys are
            )
            for i in range(p.batch_size):
                p.batch_index = i
                if p.stop_after is not None and len(infotexts) == p.stop_after:
                    break
                halfway = self.infotext(p, p.batch_index)
                assert "ImageReward" not in halfway  # images saved before the end have no score
                image = paint(p.prompts[p.batch_index], p.seeds[p.batch_index])
                pp = types.SimpleNamespace(image=image)
                self._call(script.postprocess_image_after_composite, p, pp, *args)
                text = self.infotext(p, p.batch_index)
                self._save(pp.image, text)
                pp.image.info["parameters"] = text
                infotexts.append(text)
                images.append(pp.image)
                if p.masks:
                    images.append(Image.new("L", pp.image.size))
        first = 0
        if self.opts.return_grid and not (len(images) < 2 and self.opts.grid_only_if_multiple):
            grid = image_grid(images, p.batch_size)
            grid.info["parameters"] = self.infotext(p, 0, main=True)
            images.insert(0, grid)
            infotexts.insert(0, grid.info["parameters"])
            first = 1
        processed = types.SimpleNamespace(
            images=images,
            infotexts=infotexts,
            index_of_first_image=first,
            info=infotexts[0] if infotexts else "",
            comments="",
            all_prompts=p.all_prompts,
            all_negative_prompts=[""] * count,
            all_seeds=p.all_seeds,
            all_subseeds=list(p.all_seeds),
            seed=p.all_seeds[0],
            subseed=p.all_seeds[0],
            extra_generation_params=p.extra_generation_params,
        )
        self._call(script.postprocess, p, processed, *args)
        return processed

    def infotext(self, p, index, main=False):
        params = {"Steps": p.steps, "Seed": p.seeds[index], **p.extra_generation_params, "Version": "v1.10.1"}
        for key, value in params.items():
            if callable(value):
                params[key] = value(p=p, index=index, use_main_prompt=main, generation_params=params)
        line = ", ".join(f"{key}: {value}" for key, value in params.items() if value is not None)
        return f"{p.prompts[index]}\n{line}"

    def saved(self):
        """Return the parameters of the saved files, in the order of saving."""
        return [Image.open(file).info["parameters"] for file in sorted(self.folder.glob("*.png"))]

    def _save(self, image, text):
        info = PngImagePlugin.PngInfo()
        info.add_text("parameters", text)
        image.save(self.folder / f"{len(list(self.folder.iterdir())):05}.png", pnginfo=info)

    def _call(self, method, *args):
        try:
            method(*args)
        except Exception as error:
            self.errors.append(error)


def paint(prompt, seed):
    """Return an image of the prompt, with a fault unless the seed is a multiple of three."""
    scene = shapes.parse(
        parse_prompt(prompt)[0].replace("(", "").replace(":1.3)", "").strip() or "a red circle"
    )
    rng = np.random.default_rng(seed)
    faults = () if seed % 3 == 0 else shapes.sample_faults(scene, rng, shapes.HELD_OUT, "held_out")
    return Image.fromarray(shapes.make_image(scene, rng, faults, 64).pixels)


def image_grid(images, batch_size):
    grid = Image.new("RGB", (64 * len(images), 64))
    for i, image in enumerate(images):
        grid.paste(image, (64 * i, 0))
    return grid


def parse_prompt(prompt):
    head, *rest = prompt.split("<")
    return head + "".join(part.split(">", 1)[1] for part in rest), {}


def parse_prompt_attention(text):
    """Parse "(words:1.3)" and plain words to [[words, weight], ...]."""
    head, *rest = text.split("(")
    parts = [[head, 1.0]]
    for part in rest:
        inside, after = part.split(")", 1)
        words, weight = inside.split(":")
        parts += [[words, float(weight)], [after, 1.0]]
    return parts
