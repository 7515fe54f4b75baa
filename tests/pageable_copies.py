"""Copies to a device that would wait for a GPU, found on a CPU."""

import sys

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


class PageableCopies(TorchFunctionMode):
    """Records the lines at which our packages copy a tensor of the host to a device, except in ``upload``.

    A tensor is the host's if it was created without a device, or computed from such tensors only. On a CPU
    the copy changes nothing; on a GPU it would wait.
    """

    def __init__(self, monkeypatch):
        super().__init__()
        self.found, self.uploads = [], 0
        from_numpy = torch.from_numpy  # modes do not see it
        monkeypatch.setattr(torch, "from_numpy", lambda array: self.mark(from_numpy(array), True))

    def mark(self, result, of_host):
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                tensor.of_host = of_host
        return result

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        of_host = all(getattr(tensor, "of_host", False) for tensor in inputs)
        arguments = [*args[1:], kwargs.get("device")]
        to_device = any(isinstance(argument, torch.device) for argument in arguments)
        result, name = function(*args, **kwargs), getattr(function, "__name__", "")
        if name == "cpu" or (of_host and not to_device):
            return self.mark(result, True)
        if not of_host:
            return result
        if name in ("to", "tensor", "as_tensor"):
            code = sys._getframe(1).f_code
            is_upload, is_ours = code.co_name == "upload", "/packages/" in code.co_filename
            self.uploads += is_upload
            if is_ours and not is_upload:
                self.found.append(f"{code.co_filename}: {code.co_name}")
        return self.mark(result, False)
