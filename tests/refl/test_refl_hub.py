"""refl and the hub: a base model's license, upload of a run, and a dry run of a model on the hub.

The hub's client reads its address when it is imported, so all checks run in one other process.
"""

import json
import os
import sys

import pytest
from hub_server import Hub
from tiny_pipelines import configuration_of

CARD = b"---\nlicense: other\nlicense_name: dev\nlicense_link: LICENSE.md\n---\n"
PROGRAM = """
import json, sys
from refl.publishing.base_card import base_license
from refl.cli import main

run, prompts = sys.argv[1:]
licenses = [base_license("me/base"), base_license("me/none")]
pushed = main(["push", run, "--to", "me/red"])
# Neither the weights of the model nor those of the reward are downloaded.
dry_run = main(["train", "--dry-run", "--model", "me/base", "--prompts", prompts, "--reward",
                "ImageReward-v1.0", "--set", "rollout.height=32", "--set", "run.cpu=true"])
print(json.dumps([licenses, pushed, dry_run]))
"""


@pytest.fixture
def finished(tmp_path):
    """The folder of a finished run."""
    (tmp_path / "red/model").mkdir(parents=True)
    (tmp_path / "red/model/pytorch_lora_weights.safetensors").write_bytes(b"weights")
    (tmp_path / "red/model/README.md").write_text('pipe.load_lora_weights("THIS FOLDER")')
    return tmp_path / "red"


@pytest.mark.slow
def test_licenses_uploads_and_dry_runs_use_the_hub(pipelines, tmp_path, finished, warm_python):
    folder = configuration_of(pipelines("sd"), tmp_path / "base")
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    weights = {"unet/diffusion_pytorch_model.safetensors": b"large"}
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    hub = Hub()
    hub.repos = {"me/base": {"main": {**files, **weights, "README.md": CARD}}}
    settings = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hf")}
    settings |= {"HF_TOKEN": "hf_secret", "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": ":".join(sys.path)}
    try:
        arguments = ["-c", PROGRAM, str(finished), str(tmp_path / "prompts.txt")]
        done = warm_python.run(arguments, env={**os.environ, **settings}, cwd=tmp_path)
    finally:
        hub.stop()
    assert done.returncode == 0, done.stderr
    licenses, *codes = json.loads(done.stdout.splitlines()[-1])
    link = "https://huggingface.co/me/base/blob/main/LICENSE.md"
    assert licenses == [{"license": "other", "license_name": "dev", "license_link": link}, {}]
    assert codes == [0, 0], done.stderr
    pushed = hub.repos["me/red"]["main"]
    assert pushed["README.md"] == b'pipe.load_lora_weights("me/red")'
    assert pushed["pytorch_lora_weights.safetensors"] == b"weights"
    assert "me/red/commit/" in done.stdout
    assert "not in the estimate: ImageReward-v1.0 (1.79 GB to download)" in done.stdout
    assert not hub.asked_for("diffusion_pytorch_model")
    assert not hub.asked_for("ImageReward")
