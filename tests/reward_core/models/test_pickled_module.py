"""MPS's checkpoint is a pickled module: its weights are read, and its code is not executed."""

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import reward_core as RM
from reward_core.errors import CheckpointError

DATA = Path(__file__).parents[2] / "data" / "parity_scorers" / "mps"


def module_of(state, make):
    """Return nested modules with these weights, of classes that ``make`` creates."""
    root = make()
    for key, tensor in state.items():
        *path, leaf = key.split(".")
        module = root
        for name in path:
            if name not in module._modules:
                module.add_module(name, make())
            module = module._modules[name]
        if leaf in ("inv_freq", "bias") and path[-1] in ("rotary_emb", "norm"):
            module.register_buffer(leaf, tensor)
        else:
            module.register_parameter(leaf, nn.Parameter(tensor))
    return root


@pytest.fixture
def authors(monkeypatch):
    """A Python module with the authors' classes, which does not exist when the checkpoint is read."""
    code = types.ModuleType("authors_code")
    monkeypatch.setitem(sys.modules, "authors_code", code)
    exec("from torch import nn\nclass Net(nn.Module): pass\ndef gelu(x): return x", code.__dict__)
    return code


@pytest.fixture
def files(tmp_path):
    """Return a copy of the reference files without the weights, and the path for a checkpoint."""
    folder = shutil.copytree(DATA, tmp_path / "files")
    (folder / "mps_overall.safetensors").unlink()
    return folder, folder / "MPS_overall_checkpoint.pth"


def test_weights_of_a_pickled_module_are_read_without_its_classes(authors, files, monkeypatch):
    folder, checkpoint = files
    state = load_file(DATA / "mps_overall.safetensors")
    module = module_of(state, authors.Net)
    module.register_buffer("pos_emb", torch.zeros(3), persistent=False)
    module.activation = authors.gelu  # a function
    module.config = {"dtype": torch.float16, "names": ["a"], "code": authors.Net()}
    torch.save(module, checkpoint)
    monkeypatch.delitem(sys.modules, "authors_code")
    model = RM.load("MPS", device="cpu", files=folder)
    reference = json.loads((DATA / "reference.json").read_text())["pairs"][0]
    picture = DATA.parent / reference["picture"]
    assert model.score(reference["prompt"], picture) == pytest.approx(reference["score"], abs=2e-4)
    assert "authors_code" not in sys.modules


class Attack:
    """An object whose unpickling calls a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def touch(path):
    Path(path).write_text("executed")


@pytest.mark.parametrize(
    ("reason", "attack"),
    [
        (None, lambda trace: Attack(touch, str(trace))),
        ("unrecognized function", lambda trace: Attack(Path.touch, trace)),
        ("system', which no model needs", lambda trace: Attack(os.system, f"touch {trace}")),
        ("check_output', which no", lambda trace: Attack(subprocess.check_output, ["touch", str(trace)])),
        ("builtins.eval', which no", lambda trace: Attack(eval, f"open({str(trace)!r}, 'w')")),
        ("builtins.exec', which no", lambda trace: Attack(exec, f"open({str(trace)!r}, 'w')")),
    ],
)
def test_code_in_a_checkpoint_is_never_executed(authors, files, tmp_path, reason, attack):
    """Functions do nothing, and what no model needs is refused."""
    folder, checkpoint = files
    trace = tmp_path / "trace"
    module = module_of(load_file(DATA / "mps_overall.safetensors"), authors.Net)
    module.attack = attack(trace)
    torch.save(module, checkpoint)
    if reason is None:
        RM.load("MPS", device="cpu", files=folder)
    else:
        with pytest.raises(CheckpointError, match=f"MPS_overall_checkpoint.pth.*{reason}") as raised:
            RM.load("MPS", device="cpu", files=folder)
        assert "weights_only" not in str(raised.value)  # torch's advice to execute the code
    assert not trace.exists()


def test_a_pickle_without_a_module_is_an_error(authors, files):
    folder, checkpoint = files
    for content in ({"weights": authors.Net}, [authors.gelu]):
        torch.save(content, checkpoint)
        with pytest.raises(CheckpointError, match="does not contain a module with weights"):
            RM.load("MPS", device="cpu", files=folder)
    ring = authors.Net()
    ring._modules["again"] = ring
    torch.save(ring, checkpoint)
    with pytest.raises(CheckpointError, match="a module contains itself"):
        RM.load("MPS", device="cpu", files=folder)


def test_other_scorers_refuse_pickled_modules(authors, tmp_path):
    folder = shutil.copytree(DATA.parent / "pickscore", tmp_path / "pick")
    state = load_file(DATA.parent / "pickscore" / "model.safetensors")
    torch.save(module_of(state, authors.Net), folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="contains code besides weights"):
        RM.load("PickScore", device="cpu", files=folder)
