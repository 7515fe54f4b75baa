"""Downloads and uploads, tested with a local server instead of the hub.

The hub's client reads its address and cache when it is imported, so every case runs in a process of
its own. A case makes several checks, since each process costs seconds.
"""

import contextlib
import gc
import hashlib
import io
import json
import os
import socket
import threading
import weakref

import pytest
import torch
from hub_server import Hub, commit_of
from safetensors.torch import load, save

import reward_core as RM
from reward_core.demo.published_example import PROMPT as EXAMPLE_PROMPT
from reward_core.errors import HubError
from reward_core.hub.dataset_files import RepoFile, RepoListing, fetch_verified
from reward_core.hub.downloads import as_hub_error, fetch
from reward_core.hub.file_specs import HubFile, WebFile
from reward_core.hub.local_files import how_to_copy
from reward_core.hub.reachability import hub_failure
from reward_core.models.blip.published import BLIP_WEIGHTS
from reward_core.network.config import RewardConfig

PROMPT = "a red house by the ocean"
CLIENT_PIECE = 10 * 1024 * 1024  # bytes that the client reads before it writes to disk


@pytest.fixture
def hub():
    hub = Hub()
    yield hub
    hub.stop()


@pytest.fixture
def run(tmp_path, warm_python):
    """Return run(arguments of python, URL of the hub, environment) -> CompletedProcess."""
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("HF_", "HUGGING")) and not key.lower().endswith("_proxy")
    }

    def run(arguments, address, **environment):
        settings = {
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path / "hf"),
            "TORCH_HOME": str(tmp_path / "torch"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
        }
        return warm_python.run(arguments, env={**inherited, **settings, **environment}, timeout=120)

    return run


@pytest.fixture
def command(run):
    """Return command(URL of the hub, *arguments of reward-core) -> CompletedProcess."""
    return lambda address, *arguments, **environment: run(
        ["-m", "reward_core", *map(str, arguments)], address, **environment
    )


@pytest.fixture
def script(run, parity):
    """Return script(URL of the hub, code, values) -> (``out`` of the code, its stderr)."""
    prelude = f"""
import json, sys
import reward_core as RM

PICTURE = {str(parity / "images" / "rgb.png")!r}
given, out = json.loads(sys.argv[1]), {{}}

def score(model):
    return model.score({PROMPT!r}, PICTURE)

def failure(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except RM.RewardCoreError as error:
        return [type(error).__name__, str(error)]
"""

    def script(address, code, given=None, **environment):
        given = json.dumps(given, default=str)
        code = f"{prelude}\n{code}\nprint(json.dumps(out))"
        done = run(["-c", code, given], address, **environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout), done.stderr

    return script


@pytest.fixture
def saved(model, tmp_path):
    """Return the files of the saved tiny model: {filename: content}."""
    model.save_pretrained(tmp_path / "saved")
    return {file.name: file.read_bytes() for file in (tmp_path / "saved").iterdir()}


@pytest.fixture
def local_score(model, parity):
    return pytest.approx(model.score(PROMPT, parity / "images" / "rgb.png"), abs=5e-5)


@pytest.fixture
def only_weights(parity, tmp_path):
    """Return a checkpoint of the original with a config.json but no vocabulary."""
    folder = tmp_path / "alone"
    folder.mkdir()
    for name in ("state_dict.pt", "config.json"):
        (folder / name).write_bytes((parity / name).read_bytes())
    return folder / "state_dict.pt"


def assert_says_what_to_do(message):
    assert "On a machine with a network, " in message
    assert " and copy " in message
    assert "\n" not in message.strip()


def bert_sized(vocab):
    """Return the vocabulary, extended to the size that ImageReward-v1.0 expects."""
    lines = vocab.read_text(encoding="utf-8").splitlines()
    lines += [f"[unused{i}]" for i in range(RewardConfig().vocab_lines - len(lines))]
    return "\n".join(lines).encode()


def all_zero_imagereward(tokenizer):
    """Return an ImageReward.pt of some kilobytes with the real names and shapes."""
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in RM.RewardModel(RewardConfig(), tokenizer).state_dict().items()}
    zero, file = torch.zeros(()), io.BytesIO()
    torch.save({key: zero.expand(shape) for key, shape in shapes.items()}, file)
    return file.getvalue()


# Registered names


@pytest.mark.slow
def test_the_default_model_comes_from_the_hub_and_then_from_the_cache(hub, command, script, model, parity):
    hub.repos["zai-org/ImageReward"] = {"main": {"ImageReward.pt": all_zero_imagereward(model.tokenizer)}}
    hub.repos["google-bert/bert-base-uncased"] = {"main": {"vocab.txt": bert_sized(parity / "vocab.txt")}}
    images = [parity / "images" / name for name in ("rgb.png", "gray_64x93.png")]
    done = command(hub.address, "rank", PROMPT, *images, "--json", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)["results"]
    # The head returns 0, which is normalized.
    zero = -RewardConfig.reward_mean / RewardConfig.reward_std
    assert [result["score"] for result in results] == [pytest.approx(zero)] * 2
    assert [result["image"] for result in results] == [str(image) for image in images]
    assert len(hub.asked_for("GET /zai-org/ImageReward/resolve/main/ImageReward.pt")) == 1
    assert len(hub.asked_for("GET /google-bert/bert-base-uncased/resolve/main/vocab.txt")) == 1

    hub.stop()
    code = "out = [RM.load(device='cpu').percentile(0), RM.load(local_files_only=True).percentile(0)]"
    again, _ = script(hub.address, code)
    assert again == [pytest.approx(50)] * 2


@pytest.mark.slow
def test_a_download_logs_the_license_and_records_the_commit(hub, command, script, saved, parity):
    hub.repos["zai-org/ImageReward"] = {"main": {"ImageReward.pt": (parity / "state_dict.pt").read_bytes()}}
    hub.repos["google-bert/bert-base-uncased"] = {"main": {"vocab.txt": (parity / "vocab.txt").read_bytes()}}
    for lines in (1, 0):  # only the first run downloads
        done = command(hub.address, "rank", PROMPT, parity / "images" / "rgb.png")
        assert "its weights do not match the model" in done.stderr
        assert done.stderr.count("the license of the weights is Apache-2.0 (https://") == lines, done.stderr
    hub.repos["someone/reward"] = {"main": saved}
    code = """
source = RM.load("someone/reward").source
out = [source.name, source.revision, source.sha256, str(source)]
"""
    (name, revision, sha256, text), _ = script(hub.address, code)
    assert (name, revision) == ("someone/reward", commit_of(hub.repos["someone/reward"]["main"]))
    assert sha256 == hashlib.sha256(saved["model.safetensors"]).hexdigest()
    assert text == f"someone/reward (revision {revision[:12]})"


@pytest.mark.slow
def test_the_former_repository_name_is_a_fallback(hub, script, parity, tmp_path):
    """The file has another size, which is detected after the download."""
    files = {"ImageReward.pt": (parity / "state_dict.pt").read_bytes()}
    hub.repos["THUDM/ImageReward"] = {"main": files, "without": {"README.md": b""}}
    hub.repos["google-bert/bert-base-uncased"] = {"main": {"vocab.txt": (parity / "vocab.txt").read_bytes()}}
    code = """
name = "ImageReward-v1.0"
out["online"] = failure(RM.load, name)
out["offline"] = failure(RM.load, name, local_files_only=True)
out["folder"] = failure(RM.load, name, download_root=given)
out["file"] = failure(RM.load, name, revision="without")
out["revision"] = failure(RM.load, name, revision="v7")
"""
    out, _ = script(hub.address, code, tmp_path / "root")
    for kind, message in (out[case] for case in ("online", "offline", "folder")):
        assert kind == "KeyMismatchError"
        assert "its weights do not match the model" in message
    assert "THUDM" in out["online"][1]
    assert out["offline"] == out["online"]
    assert (tmp_path / "root" / "ImageReward.pt").read_bytes() == files["ImageReward.pt"]
    failed = "Cannot download ImageReward.pt of THUDM/ImageReward: no such"
    assert out["file"] == ["HubError", f"{failed} file in the repository."]
    assert out["revision"] == ["HubError", f"{failed} revision."]
    # Once for the cache and once for the folder, but not for the offline load.
    assert len(hub.asked_for("HEAD /zai-org/ImageReward/resolve/main/ImageReward.pt")) == 2


# Repositories of saved folders


@pytest.mark.slow
def test_a_saved_folder_loads_from_the_hub_and_offline_afterwards(hub, script, saved, local_score, tmp_path):
    config = json.loads(saved["config.json"])
    config["reward_mean"] -= config["reward_std"]  # adds 1 to every reward
    other = {**saved, "config.json": json.dumps(config).encode(), "README.md": b"# read me"}
    hub.repos["someone/tiny-reward"] = {"main": saved, "plus-one": other}
    code = """
out["main"] = score(RM.load("someone/tiny-reward", device="cpu"))
out["branch"] = score(RM.load("someone/tiny-reward", device="cpu", revision="plus-one"))
out["commit"] = score(RM.load("someone/tiny-reward", device="cpu", revision=given))
"""
    out, stderr = script(hub.address, code, commit_of(other))
    assert out["main"] == local_score
    assert out["branch"] == out["commit"] == pytest.approx(out["main"] + 1)
    assert "100%" in stderr  # a progress bar
    assert len(hub.asked_for("GET /someone/tiny-reward/resolve")) == len(saved) + 1
    assert not hub.asked_for("README.md")
    cache = tmp_path / "hf" / "hub" / "models--someone--tiny-reward"
    weights = cache / "snapshots" / commit_of(saved) / "model.safetensors"
    assert weights.read_bytes() == saved["model.safetensors"]

    hub.stop()
    code = """
repo = "someone/tiny-reward"
out["offline"] = score(RM.load(repo, device="cpu", local_files_only=True))
out["branch"] = score(RM.RewardModel.from_pretrained(repo, revision="plus-one", local_files_only=True))
out["hub gone"] = score(RM.load(repo, device="cpu"))
out["never fetched"] = failure(RM.load, "someone/else", local_files_only=True)
"""
    out, _ = script(hub.address, code)
    assert out["offline"] == out["hub gone"] == local_score
    assert out["branch"] == pytest.approx(out["offline"] + 1)
    kind, message = out["never fetched"]
    assert kind == "HubError"
    assert message.startswith("Cannot download someone/else, which is not on this machine: ")
    assert "refused" not in message  # no connection to the hub was tried
    assert_says_what_to_do(message)


@pytest.mark.slow
def test_a_dropped_connection_resumes(hub, script, saved, local_score):
    # The client needs one complete piece to be able to resume.
    filler = {"format": "pt", "filler": "x" * CLIENT_PIECE}
    weights = save(load(saved["model.safetensors"]), filler)
    files = {**saved, "model.safetensors": weights}
    hub.repos["someone/tiny-reward"] = {"main": files}
    path = f"/someone/tiny-reward/resolve/{commit_of(files)}/model.safetensors"
    hub.dropped[path] = CLIENT_PIECE + 100_000
    out, _ = script(hub.address, 'out = score(RM.load("someone/tiny-reward", device="cpu"))')
    assert not hub.dropped
    assert [request.range for request in hub.asked_for(f"GET {path}")] == [None, f"bytes={CLIENT_PIECE}-"]
    assert out == local_score


@pytest.mark.slow
def test_each_refusal_has_its_own_message(hub, script, saved, only_weights):
    hub.repos["someone/tiny-reward"] = {"main": saved}
    hub.repos["someone/other-kind"] = {"main": {"ImageReward.pt": b"", "config.json": b"{}"}}
    hub.repos["THUDM/ImageReward"] = {"main": {"ImageReward.pt": b""}}
    hub.refusals = {
        "zai-org/ImageReward": (403, "GatedRepo"),
        "someone/gated": (403, "GatedRepo"),
        "someone/private": (401, "RepoNotFound"),
        "someone/forbidden": (403, None),
        "someone/broken": (500, None),
        "someone/silent": (0, None),
    }
    code = """
for name in given["names"]:
    out[name] = failure(RM.load, f"someone/{name}")
out["revision"] = failure(RM.load, "someone/tiny-reward", revision="v7")
out["score"] = failure(RM.load_score, "someone/absent")
out["vocabulary"] = failure(RM.load, given["weights"])
out["registered"] = failure(RM.load, "ImageReward-v1.0")
"""
    names = ["absent", "gated", "private", "forbidden", "broken", "silent", "other-kind", "not valid"]
    out, _ = script(hub.address, code, {"names": names, "weights": only_weights})
    assert {kind for kind, _ in out.values()} == {"HubError"}
    messages = {name: message for name, (_, message) in out.items()}
    assert messages["absent"].startswith("Cannot download someone/absent: no such repository on the hub, or")
    assert messages["score"] == messages["absent"]
    assert messages["private"].startswith(
        "Cannot download someone/private: no such repository on the hub, or"
    )
    login = "access must be granted first. Log in with `hf auth login`."
    assert messages["gated"] == f"Cannot download someone/gated: {login}"
    assert messages["revision"] == "Cannot download someone/tiny-reward: no such revision."
    assert "403 Forbidden" in messages["forbidden"]
    assert "500" in messages["broken"]
    assert "the repository has no model.safetensors" in messages["other-kind"]
    assert "'someone/not valid'" in messages["not valid"]
    both = "google-bert/bert-base-uncased or bert-base-uncased"
    assert messages["vocabulary"] == f"Cannot download vocab.txt: no repository {both} on the hub."
    # The former name is not tried for a repository that needs a login.
    assert messages["registered"] == f"Cannot download ImageReward.pt of zai-org/ImageReward: {login}"
    assert not hub.asked_for("THUDM")
    # Only network errors are reported as failed downloads.
    assert [name for name in messages if "not on this machine" in messages[name]] == ["silent"]


# No network


@pytest.mark.slow
def test_without_a_network_the_command_suggests_a_solution(hub, command, parity):
    """Offline mode, an unreachable hub, and a proxy that refuses all connections."""
    rank = ["rank", "x", parity / "images" / "rgb.png"]
    nobody = Hub()
    nobody.stop()
    for arguments, address, environment, reason in (
        (rank, nobody.address, {"HF_HUB_OFFLINE": "1"}, "offline mode is enabled"),
        ([*rank, "--model", "someone/tiny-reward"], nobody.address, {}, "refused"),
        (rank, "https://hub.invalid", {"https_proxy": hub.address}, "501"),
    ):
        done = command(address, *arguments, **environment)
        assert done.returncode == 2
        assert done.stdout == ""
        assert ", which is not on this machine: " in done.stderr
        assert reason in done.stderr
        assert_says_what_to_do(done.stderr)
        assert "Traceback" not in done.stderr


def test_a_cached_failure_keeps_nothing_of_its_callers(monkeypatch):
    nobody = Hub()
    nobody.stop()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nobody.address)

    class Large:
        """Something that a caller has in memory."""

    def ask():
        large = Large()
        return weakref.ref(large), hub_failure()

    large, failure = ask()
    gc.collect()
    assert "refused" in str(failure)
    assert large() is None


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_asked_twice_and_the_error_names_every_file(
    command, parity, tmp_path
):
    with socket.create_server(("127.0.0.1", 0)) as server:
        attempts = []

        def hang_up():
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    attempts.append(1)
                    connection.close()

        threading.Thread(target=hang_up, daemon=True).start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        done = command(address, "rank", "x", parity / "images" / "rgb.png")
    assert done.returncode == 2
    assert len(attempts) == 2
    assert len(done.stderr.splitlines()) == 1
    cache = tmp_path / "hf" / "hub"
    for repo_id, name in (
        ("zai-org/ImageReward", "ImageReward.pt"),
        ("google-bert/bert-base-uncased", "vocab.txt"),
    ):
        assert f"`hf download {repo_id} {name}`" in done.stderr
        assert str(cache / f"models--{repo_id.replace('/', '--')}") in done.stderr


# The vocabulary


@pytest.mark.slow
def test_the_local_vocabulary_comes_before_the_hub_vocabulary(hub, script, parity, local_score, only_weights):
    hub.repos["bert-base-uncased"] = {"main": {"vocab.txt": (parity / "vocab.txt").read_bytes()}}
    code = "out = [score(RM.load(path, device='cpu')) for path in given]"
    out, _ = script(hub.address, code, [parity / "state_dict.pt", only_weights])
    assert out == [local_score, local_score]
    # Only the second model downloads it; the first has its own vocabulary.
    assert [request.line for request in hub.requests] == [
        "HEAD /",  # whether the hub answers at all
        "HEAD /google-bert/bert-base-uncased/resolve/main/vocab.txt",
        "HEAD /bert-base-uncased/resolve/main/vocab.txt",
        "GET /bert-base-uncased/resolve/main/vocab.txt",
    ]


@pytest.mark.slow
# Uploads
def test_a_pushed_model_can_be_loaded(hub, script, parity, saved, local_score):
    hub.refusals = {"someone/foreign": (401, None), "someone/silent": (0, None)}
    code = """
model = RM.load(given, device="cpu")
out["address"] = model.push_to_hub("someone/pushed", private=True, token="hf_secret")
out["score"] = score(RM.load("someone/pushed", device="cpu"))
out["foreign"] = failure(model.push_to_hub, "someone/foreign")
out["branch"] = failure(model.push_to_hub, "someone/pushed", revision="v7")
out["silent"] = failure(model.push_to_hub, "someone/silent")
"""
    out, _ = script(hub.address, code, parity / "state_dict.pt")
    assert out["score"] == local_score
    pushed = hub.repos["someone/pushed"]["main"]
    assert pushed == saved
    assert out["address"] == f"{hub.address}/someone/pushed/commit/{commit_of(pushed)}"
    assert json.loads(hub.asked_for("POST /api/repos/create")[0].body)["visibility"] == "private"
    [commit] = hub.asked_for("POST /api/models/someone/pushed/commit/main")
    assert commit.authorization == "Bearer hf_secret"
    assert json.loads(commit.body.splitlines()[0])["value"]["summary"] == "Upload reward model"
    messages = {name: out[name][1] for name in ("foreign", "branch", "silent")}
    assert {out[name][0] for name in messages} == {"HubError"}
    assert "not allowed. Log in with `hf auth login`" in messages["foreign"]
    assert messages["branch"] == "Cannot upload to someone/pushed: no such revision."
    assert messages["silent"].startswith("Cannot upload to someone/silent: ")


# Other URLs


@pytest.mark.slow
def test_the_example_accepts_only_the_published_images(hub, command, parity, tmp_path):
    other = (parity / "images" / "rgb.png").read_bytes()
    hub.web = {f"/other/{i}.webp": other for i in (1, 2, 3, 4)}
    done = command(hub.address, "example", "--images", f"{hub.address}/other/")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{hub.address}/other/1.webp: not the published example image" in done.stderr
    # A refused file is removed, so that it is not used the next time.
    assert not [path for path in (tmp_path / "torch").rglob("*") if path.is_file()]

    done = command(hub.address, "example", "--images", f"{hub.address}/nothing")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Cannot download '{hub.address}/nothing/1.webp': HTTP Error 404" in done.stderr
    assert "example --images FOLDER" in done.stderr
    assert "Traceback" not in done.stderr
    assert EXAMPLE_PROMPT not in done.stderr


@pytest.mark.slow
def test_a_missing_baseline_names_its_url(hub, script, parity, tmp_path):
    """The proxy refuses the connection, because the local server does not know CONNECT."""
    weights = tmp_path / "root" / "model_large.pth"
    weights.parent.mkdir()
    weights.write_bytes((parity / "state_dict.pt").read_bytes())
    (weights.parent / "vocab.txt").write_bytes((parity / "vocab.txt").read_bytes())
    code = """
out["proxy"] = failure(RM.load_score, "BLIP")
out["offline"] = failure(RM.load_score, "BLIP", local_files_only=True)
out["here"] = failure(RM.load_score, "BLIP", download_root=given)
"""
    out, _ = script(hub.address, code, weights.parent, https_proxy=hub.address)
    address = BLIP_WEIGHTS.url
    for case in ("proxy", "offline"):
        kind, message = out[case]
        assert kind == "HubError"
        assert address in message
    assert "501" in out["proxy"][1]
    assert "downloads are disabled" in out["offline"][1]
    assert_says_what_to_do(out["proxy"][1])
    assert out["here"][0] == "KeyMismatchError"  # the local file was read


def test_a_downloaded_file_is_complete_or_absent(hub, tmp_path):
    hub.web["/weights.pth"] = content = bytes(range(256)) * 1000
    hub.dropped["/weights.pth"] = 128_000
    file = WebFile(f"{hub.address}/weights.pth", "weights.pth")
    with pytest.raises(HubError, match=r"Cannot download .*weights\.pth.*128,000 of 256,000 bytes"):
        fetch(file, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert fetch(file, tmp_path) == tmp_path / "weights.pth"
    assert (tmp_path / "weights.pth").read_bytes() == content
    assert fetch(file, tmp_path).is_file()
    assert len(hub.requests) == 2  # not requested again


def test_checksums_of_files_from_urls(hub, tmp_path):
    hub.web["/file"] = b"content"
    digest = hashlib.sha256(b"content").hexdigest()
    path = fetch(WebFile(f"{hub.address}/file", "file", digest), tmp_path)
    assert path.read_bytes() == b"content"
    with pytest.raises(HubError, match="sha256"):
        fetch(WebFile(f"{hub.address}/file", "other", digest[::-1]), tmp_path)
    assert not (tmp_path / "other").exists()


class RawServer:
    """A server that answers every connection with the given bytes."""

    def __init__(self, *pieces: bytes, pause: float = 0.0):
        self.pieces, self.pause = pieces, pause
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self.stopping = threading.Event()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.recv(65536)
                for piece in self.pieces:
                    connection.sendall(piece)
                    if self.pause and self.stopping.wait(self.pause):
                        return

    def stop(self):
        self.stopping.set()
        self.socket.close()


@pytest.fixture
def raw_server():
    servers = []

    def start(*pieces, **settings):
        servers.append(RawServer(*pieces, **settings))
        return servers[-1].address

    yield start
    for server in servers:
        server.stop()


@pytest.mark.parametrize(
    "length", ["abc", "-1", "1e3", "0x10", "9" * 30, "\u0663".encode().decode("latin-1")]
)
def test_an_invalid_content_length_is_refused(raw_server, tmp_path, length):
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nabc".encode("latin-1")
    address = raw_server(answer)
    with pytest.raises(HubError, match=r"Cannot download .*(invalid Content-Length|IncompleteRead)"):
        fetch(WebFile(f"{address}/w.bin", "w.bin"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_content_length_is_downloaded(raw_server, tmp_path):
    address = raw_server(b"HTTP/1.0 200 OK\r\n\r\n", b"content")
    assert fetch(WebFile(f"{address}/w.bin", "w.bin"), tmp_path).read_bytes() == b"content"


@pytest.mark.slow
def test_a_download_from_a_stalled_server_is_canceled(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("REWARD_CORE_DOWNLOAD_TIMEOUT", "1")
    hub.web["/w.bin"], hub.stalled["/w.bin"] = b"x" * 1000, 10
    with pytest.raises(HubError, match=r"Cannot download .*w\.bin: .*timed out"):
        fetch(WebFile(f"{hub.address}/w.bin", "w.bin"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_download_from_a_slow_server_is_canceled(raw_server, tmp_path, monkeypatch):
    monkeypatch.setattr("reward_core.hub.web_download.MEASURED_SECONDS", 0.5)
    address = raw_server(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", *[b"x"] * 1000, pause=0.05)
    with pytest.raises(HubError, match=r"Cannot download .*: .*only \d+ bytes arrived in \d+ seconds"):
        fetch(WebFile(f"{address}/w.bin", "w.bin"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "endless"])
def test_a_file_larger_than_the_limit_is_not_kept(raw_server, tmp_path, monkeypatch, announced):
    monkeypatch.setenv("REWARD_CORE_MAX_DOWNLOAD_BYTES", "100000")
    length = b"Content-Length: 10000000000\r\n" if announced else b""
    address = raw_server(b"HTTP/1.0 200 OK\r\n" + length + b"\r\n", *[b"x" * 50_000] * 50)
    with pytest.raises(HubError, match=r"the limit is 100,000 \(REWARD_CORE_MAX_DOWNLOAD_BYTES"):
        fetch(WebFile(f"{address}/w.bin", "w.bin"), tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(HubError, match="the limit is 10 "):
        fetch(WebFile(f"{address}/w.bin", "w.bin", max_bytes=10), tmp_path)


@pytest.mark.parametrize(
    "answer", [b"", b"hello\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n"]
)
def test_an_answer_other_than_http_raises_hub_error(raw_server, tmp_path, answer):
    address = raw_server(answer)
    with pytest.raises(HubError, match=r"Cannot download .*w\.bin"):
        fetch(WebFile(f"{address}/w.bin", "w.bin"), tmp_path)


@pytest.mark.parametrize(
    "name",
    ["../../victim.txt", "a/../../victim.txt", "VICTIM", "..\\..\\victim.txt", "images/..", "C:/v", "a\n"],
)
def test_a_listing_with_files_outside_the_folder_raises_hub_error(tmp_path, name):
    victim = tmp_path / "victim.txt"
    victim.write_text("precious")
    name = name.replace("VICTIM", str(victim))
    (tmp_path / "root" / "data").mkdir(parents=True)
    file = RepoFile(name, 10)
    listing = RepoListing("a/b", "0" * 40, {name: file})
    with pytest.raises(HubError, match="of a/b: the name leads outside the folder"):
        fetch_verified(listing, file, tmp_path / "root" / "data")
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    "error", [ValueError("Invalid pointer path"), TypeError("not a list"), KeyError("sha")]
)
def test_every_error_of_the_hub_client_becomes_hub_error(error):
    result = as_hub_error("m.pt of a/b", error)
    assert isinstance(result, HubError)
    assert str(result).startswith("Cannot download m.pt of a/b: the hub's answer is invalid: ")


def test_missing_files_of_one_repository_are_one_command():
    files = [HubFile("a/b", "x.json"), WebFile("http://h/y", "y"), HubFile("a/b", "z", revision="v1")]
    advice = how_to_copy([*files, HubFile("a/b", "w.bin")])
    assert advice.count("hf download") == 2
    assert "`hf download a/b x.json w.bin`" in advice
    assert "`hf download a/b z --revision v1`" in advice
