"""A minimal ComfyUI: the interfaces that the nodes use, and the passing of lists between nodes."""

import importlib.util
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin

EXTENSION = Path(__file__).parents[1] / "tools" / "comfyui"


class ExecutionBlocker:
    def __init__(self, message):
        self.message = message


class ModelPatcher:
    """comfy.model_patcher.ModelPatcher: the host moves the model and stores its device on the model."""

    def __init__(self, model, load_device, offload_device):
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        model.device = offload_device


class Host:
    """loads: patchers that were requested on the device. full: number of images that fit in memory."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.loads, self.full, self.bar = [], None, 0
        memory = module(
            "comfy.model_management",
            get_torch_device=lambda: torch.device("cpu"),
            text_encoder_offload_device=lambda: torch.device("cpu"),
            load_models_gpu=lambda models, force_full_load=False: self.loads.append(
                (models, force_full_load)
            ),
            throw_exception_if_processing_interrupted=lambda: None,
            soft_empty_cache=lambda: None,
            OOM_EXCEPTION=torch.OutOfMemoryError,
        )
        folder_paths = module(
            "folder_paths",
            models_dir=str(self.folder / "models"),
            add_model_folder_path=lambda name, path: self.model_folders.setdefault(name, []).append(path),
            get_folder_paths=lambda name: self.model_folders[name],
        )
        self.model_folders = {}
        host = self

        class SaveImage:
            """Save like ComfyUI, with every value of extra_pnginfo as JSON."""

            kind = "output"

            def save_images(self, images, filename_prefix="ComfyUI", prompt=None, extra_pnginfo=None):
                saved = []
                for image in images:
                    info = PngImagePlugin.PngInfo()
                    for key, value in {"prompt": prompt, **(extra_pnginfo or {})}.items():
                        info.add_text(key, json.dumps(value))
                    name = f"{filename_prefix}_{len(list(host.folder.glob('*.png'))):05}_.png"
                    levels = np.clip(255 * image.cpu().numpy(), 0, 255).astype(np.uint8)
                    Image.fromarray(levels).save(host.folder / name, pnginfo=info)
                    saved.append({"filename": name, "subfolder": "", "type": self.kind})
                return {"ui": {"images": saved}}

        class PreviewImage(SaveImage):
            kind = "temp"

        class ProgressBar:
            def __init__(self, total):
                host.bar = 0

            def update(self, value):
                host.bar += value

        self.modules = {
            "comfy": module("comfy"),
            "comfy.model_management": memory,
            "comfy.model_patcher": module("comfy.model_patcher", ModelPatcher=ModelPatcher),
            "comfy.utils": module("comfy.utils", ProgressBar=ProgressBar),
            "comfy_execution": module("comfy_execution"),
            "comfy_execution.graph_utils": module(
                "comfy_execution.graph_utils", ExecutionBlocker=ExecutionBlocker
            ),
            "folder_paths": folder_paths,
            "nodes": module("nodes", SaveImage=SaveImage, PreviewImage=PreviewImage),
        }
        for name, made in self.modules.items():
            if "." in name:
                parent, child = name.split(".")
                setattr(self.modules[parent], child, made)

    def load_nodes(self):
        """Import the folder like ComfyUI, as a package with a separate name."""
        spec = importlib.util.spec_from_file_location(
            "comfy_reward_nodes", EXTENSION / "__init__.py", submodule_search_locations=[str(EXTENSION)]
        )
        package = importlib.util.module_from_spec(spec)
        sys.modules["comfy_reward_nodes"] = package
        spec.loader.exec_module(package)
        return package.NODE_CLASS_MAPPINGS


def module(name, **contents):
    made = types.ModuleType(name)
    vars(made).update(contents)
    return made


def run(node, **inputs):
    """Run a node like execution.py, with lists for nodes that accept lists; return (outputs, ui)."""
    if getattr(node, "INPUT_IS_LIST", False):
        inputs = {k: v if isinstance(v, (list, tuple)) else [v] for k, v in inputs.items()}
    given = getattr(node(), node.FUNCTION)(**inputs)
    if not isinstance(given, dict):
        return given, {}
    return given.get("result", ()), given.get("ui", {})
