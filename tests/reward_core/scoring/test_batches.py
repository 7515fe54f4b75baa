"""Batches of the scoring methods: those that do not fit in memory, and the memory that they keep."""

import pytest
import torch
from PIL import Image
from tiny_clips import save_tiny_clips
from torch.multiprocessing.reductions import StorageWeakRef

import reward_core as RM
from reward_core.scoring.transfers import Transfers

PROMPTS = ["a red house by the ocean", "portrait of a dog", "night city, high quality photo"]


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [Image.new("RGB", (48, 40 + i), (20 * i, 250 - 20 * i, 10)) for i in range(12)]


class Features(torch.Tensor):
    """Image features that do not fit on a device if there are more than three."""

    def to(self, *args, **kwargs):
        if len(self) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return self.as_subclass(torch.Tensor).to(*args, **kwargs)


def test_features_that_do_not_fit_on_the_device_are_uploaded_in_parts(model, images):
    features = model.encode_images(images)
    large = RM.ImageFeatures(features.data.as_subclass(Features), features.model)
    prompts = PROMPTS * 4
    pairs = model.score_pairs(prompts, large, batch_size=12)
    assert torch.allclose(pairs, model.score_pairs(prompts, features, batch_size=2), atol=1e-5)
    matrix = model.score_matrix(PROMPTS, large, batch_size=12)
    assert torch.allclose(matrix, model.score_matrix(PROMPTS, features, batch_size=2), atol=1e-5)


@pytest.mark.parametrize("method", ["encode_images", "encode_readable_images"])
def test_the_features_of_a_batch_are_copied_before_the_next_ones_are_computed(model, images, method):
    computed, alive = [], []

    def note(module, inputs, output):
        alive.append(sum(not storage.expired() for storage in computed))
        computed.append(StorageWeakRef(output.untyped_storage()))

    handle = model.blip.visual_encoder.register_forward_hook(note)
    result = getattr(model, method)(images, batch_size=1)
    handle.remove()
    assert len(alive) == 12
    assert max(alive) <= 2
    features = result if method == "encode_images" else result[0]
    expected = torch.stack([model.encode_images([image]).data[0] for image in images])
    assert torch.allclose(features.data, expected, atol=1e-5)


def test_unreadable_images_leave_no_rows(model, images):
    features, errors = model.encode_readable_images(
        [images[0], "none.png", images[2], "none.png"], batch_size=1
    )
    assert errors == {1: "no such file", 3: "no such file"}
    assert len(features) == 2
    assert features.data.untyped_storage().nbytes() == features.data.nbytes
    assert torch.allclose(features.data, model.encode_images([images[0], images[2]]).data, atol=1e-5)
    features, errors = model.encode_readable_images(["none.png"])
    assert (len(features), len(errors)) == (0, 1)


class Launched(torch.Tensor):
    """A result that is being computed."""

    events: list[str]

    def cpu(self):
        self.events.append("read")
        return self.as_subclass(torch.Tensor)


def test_prompts_are_read_while_later_ones_are_computed(tmp_path, monkeypatch):
    scorer = RM.load(save_tiny_clips(tmp_path)["CLIP"], device="cpu")
    prompts, events = [f"{'ab'[i % 2]} b" for i in range(40)], []
    expected = scorer.encode_prompts(prompts)

    class Logging(type(scorer)):
        def encode_tokens(self, token_ids, mask):
            events.append("compute")
            result = super().encode_tokens(token_ids, mask).as_subclass(Launched)
            result.events = events
            return result

    scorer.__class__ = Logging
    for lag, order in ((0, "cr" * 5), (2, "cccrcrcrrr")):
        monkeypatch.setattr(Transfers, "lag", lag)  # a GPU has 2
        events.clear()
        found = scorer.encode_prompts(prompts, batch_size=1)  # batches of 8 prompts
        assert "".join(event[0] for event in events) == order
        assert torch.allclose(found.data, expected.data, atol=1e-6)
