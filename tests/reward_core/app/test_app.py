"""``reward-core app`` in Chromium: uploads, results, limits, and a record of all requests.

The server is the console command in another process.
"""

import csv
import os
import re
import shutil
import signal
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

import reward_core as RM
from reward_core import shapes

if find_spec("gradio") is None:  # importing it takes seconds, in each worker
    pytest.skip("the page needs gradio (extra: app)", allow_module_level=True)
httpx = pytest.importorskip("httpx")
api = pytest.importorskip("playwright.sync_api", reason="driving a browser needs the playwright package")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no chromium on this machine (Debian: apt-get install chromium)", allow_module_level=True)

pytestmark = pytest.mark.slow  # two servers and a browser; other files of this folder need neither

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
MARKUP = "<img src=x onerror=\"document.title='taken over'\">${7*7}{{value}}"


class Server:
    """``reward-core app`` with the model tiny; ``folder`` is the parent of its folder of uploads."""

    def __init__(self, warm_python, folder, *options):
        self.folder = folder
        settings = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "GRADIO_TEMP_DIR": str(folder)}
        arguments = ["-m", "reward_core", "app", "--model", "tiny", *options]
        self.process = warm_python.start(arguments, env={**os.environ, **settings})
        while not (match := re.search(r"(http://\S+)\s", self.output())):
            assert self.process.poll(0.05) is None, self.output()
        self.address = match[1]

    def output(self):
        return self.process.output()[1]

    def stop(self, number=signal.SIGINT):
        """Stop the server; return its exit code."""
        assert len(list(self.folder.glob("reward-core-app-*"))) == 1
        self.process.send_signal(number)
        return self.process.wait(90)


@pytest.fixture(scope="module")
def server(warm_python, tmp_path_factory):
    server = Server(warm_python, tmp_path_factory.mktemp("uploads"), "--model", "tiny-judge")
    yield server
    assert server.stop() in (0, 130)
    assert list(server.folder.glob("reward-core-app-*")) == []  # no upload is left


@pytest.fixture(scope="module")
def strict_server(warm_python, tmp_path_factory):
    """A server with low limits and with one model."""
    limits = ("--max-pictures", 4, "--max-mb", 1, "--queue", 1)
    server = Server(warm_python, tmp_path_factory.mktemp("uploads"), *limits)
    yield server
    body = {"data": [[], "x", "\x1b]0;title\x07\u202e", []], "fn_index": 0, "session_hash": "log"}
    httpx.post(f"{server.address}gradio_api/queue/join", json=body)  # a model's name that is not offered
    with httpx.stream("GET", f"{server.address}gradio_api/queue/data?session_hash=log") as answer:
        assert any("process_completed" in line for line in answer.iter_lines())
    assert server.stop(signal.SIGTERM) == 128 + signal.SIGTERM
    assert "\\x1b]0;title" in server.output()
    assert not {"\x1b", "\x07", "\u202e"} & set(server.output())
    assert list(server.folder.glob("reward-core-app-*")) == []


@pytest.fixture(scope="module")
def browser():
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def visit(browser):
    """A function that opens an address as a Page; requests of the browser to other hosts fail the test."""
    contexts, elsewhere = [], []

    def visit(address, width=1280, height=900, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        context.set_default_timeout(90_000)
        contexts.append(context)
        context.on("request", lambda request: note(request.url))
        page = context.new_page()
        page.goto(address)
        return Page(page)

    def note(url):
        parts = urlsplit(url)
        if parts.scheme not in ("data", "blob") and parts.hostname not in ("127.0.0.1", "localhost"):
            elsewhere.append(url)

    yield visit
    for context in contexts:
        context.close()
    assert elsewhere == []


class Page:
    """The actions of a visitor and the content of the page."""

    def __init__(self, page):
        self.page = page
        page.locator("#rc-rank").wait_for()

    def rank(self, files, prompts, model=None, more=None):
        if files:
            self.page.locator("#rc-files input[type=file]").set_input_files(list(map(str, files)))
            self.page.locator("#rc-files .file-preview tr").nth(len(files) - 1).wait_for()
        self.page.locator("#rc-prompts textarea").fill("\n".join(prompts))
        if model:
            self.page.locator("#rc-model input").click()
            self.page.get_by_role("option", name=model, exact=True).click()
        for box in [] if more is None else self.page.locator("#rc-more label").all():
            box.locator("input").set_checked(box.inner_text().strip() in more)
        self.page.evaluate(
            "document.querySelectorAll('#rc-results .rc-results, #rc-results .rc-notice')"
            ".forEach(e => e.classList.add('old'))"
        )
        self.page.locator("#rc-rank").click()
        self.page.locator("#rc-results :is(.rc-results, .rc-notice):not(.old)").first.wait_for()

    def cards(self, prompt=0):
        """Return (name, displayed scores, text) of each card of a prompt, in the order of the page."""
        section = self.page.locator("#rc-results .rc-prompt:has(.rc-cards)").nth(prompt)
        return [
            (
                card.get_attribute("data-name"),
                [float(text) for text in card.locator(".rc-score").all_inner_texts()],
                card.inner_text(),
            )
            for card in section.locator(".rc-card").all()
        ]

    def notices(self):
        return "\n".join(self.page.locator("#rc-results .rc-notice").all_inner_texts())


@pytest.fixture(scope="module")
def group():
    """Six images of one prompt."""
    return next(shapes.make_groups(1, replace(shapes.HELD_OUT, images=(6, 6)), "held_out", start=11))


@pytest.fixture(scope="module")
def files(group, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for i, pixels in enumerate(group.images):
        Image.fromarray(pixels).save(folder / f"p{i}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def models():
    return {name: RM.load(name, device="cpu") for name in ("tiny", "tiny-judge")}


def best_first(model, prompt, files):
    """Return [(name, reward)] in the order of the API."""
    ranks, rewards = model.inference_rank(prompt, files)
    return [(files[i].name, rewards[i]) for i in sorted(range(len(files)), key=ranks.__getitem__)]


def check_ranked(cards, model, prompt, files):
    expected = best_first(model, prompt, files)
    assert [name for name, _, _ in cards] == [name for name, _ in expected]
    for (_, scores, text), (_, reward) in zip(cards, expected):
        # Displayed with two decimals; other batch sizes round differently by less than 1e-5.
        assert scores[0] == pytest.approx(reward, abs=0.00501)
        assert f"better than {model.percentile(reward):.0f}%" in text


def test_images_are_ranked_for_a_prompt(visit, server, models, files, group):
    page = visit(server.address)
    page.rank(files, [group.prompt], more=[])
    cards = page.cards()
    check_ranked(cards, models["tiny"], group.prompt, files)
    assert "best" in cards[0][2]
    assert all("best" not in text for _, _, text in cards[1:])
    widths = [
        bar.evaluate("e => e.offsetWidth / e.parentElement.offsetWidth")
        for bar in page.page.locator("#rc-results .rc-bar b").all()
    ]
    assert widths == sorted(widths, reverse=True)
    assert 0 < widths[-1] < widths[0] <= 1
    assert page.notices() == ""


def test_each_prompt_has_a_row_and_all_share_a_table(visit, server, models, files, group):
    prompts = [group.prompt, "a big green star", "a small blue circle left of a red square"]
    page = visit(server.address)
    page.rank(files, [*prompts, "", prompts[1]], more=[])  # with an empty and a repeated line
    for p, prompt in enumerate(prompts):
        check_ranked(page.cards(p), models["tiny"], prompt, files)
    rows = page.page.locator(".rc-glance tbody tr").all()
    matrix = models["tiny"].score_matrix(prompts, files)
    shown = {row.locator("th span").inner_text(): row.locator("td").all_inner_texts() for row in rows}
    for n, file in enumerate(files):
        assert [float(text) for text in shown[file.name]] == pytest.approx(matrix[:, n].tolist(), abs=0.00501)
    assert page.page.locator(".rc-glance .rc-first-place").count() == len(prompts)
    assert page.page.locator(".rc-glance thead th").count() == len(prompts) + 1


def test_two_models_are_compared_and_the_table_can_be_downloaded(visit, server, models, files, group):
    page = visit(server.address)
    page.rank(files, [group.prompt])
    cards = page.cards()
    check_ranked(cards, models["tiny"], group.prompt, files)
    ranks, rewards = models["tiny-judge"].inference_rank(group.prompt, files)
    names = [file.name for file in files]
    for name, scores, text in cards:
        assert scores[1] == pytest.approx(rewards[names.index(name)], abs=0.00501)
        assert f"#{ranks[names.index(name)]}" in text
    a, b = (models[name].score(group.prompt, files) for name in ("tiny", "tiny-judge"))
    pairs = [(i, j) for i in range(len(files)) for j in range(i)]
    alike = sum((a[i] - a[j]) * (b[i] - b[j]) > 0 for i, j in pairs)
    assert f"order {alike} of {len(pairs)} pairs alike" in page.page.locator(".rc-compared").inner_text()

    with page.page.expect_download() as download:
        page.page.locator("a.rc-download").click()
    assert download.value.suggested_filename == "scores.csv"
    with open(download.value.path(), newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(files)
    for name, model in models.items():
        own = [row for row in rows if row["model"] == name]
        expected = best_first(model, group.prompt, files)
        assert [(row["place"], row["picture"]) for row in own] == [
            (str(rank), image) for rank, (image, _) in enumerate(expected, start=1)
        ]
        for row, (_, reward) in zip(own, expected):
            assert float(row["score"]) == pytest.approx(reward, abs=5e-5)
            assert float(row["percentile"]) == pytest.approx(model.percentile(reward), abs=0.051)
            assert (row["prompt"], row["error"]) == (group.prompt, "")


def test_unreadable_images_are_reported_and_the_rest_is_ranked(visit, server, models, files, group, tmp_path):
    bad = {
        "notes.txt": (b"no picture", "not an image"),
        "words.png": (b"no picture either", "not an image"),
        "half.png": (files[0].read_bytes()[:200], "damaged or truncated"),
        "empty.png": (b"", "empty"),
    }
    for name, (content, _) in bad.items():
        (tmp_path / name).write_bytes(content)
    page = visit(server.address)
    page.rank([*files[:3], *(tmp_path / name for name in bad)], [group.prompt], more=[])
    check_ranked(page.cards(), models["tiny"], group.prompt, files[:3])
    notices = page.notices()
    assert "4 files could not be ranked" in notices
    for name, (_, reason) in bad.items():
        assert re.search(rf"^{re.escape(name)}: .*{reason}", notices, re.MULTILINE)
    page.rank([], [])
    assert "No prompt given" in page.notices()


def test_input_over_the_limits_is_reported_and_skipped(visit, strict_server, models, files, group, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (800, 800, 3), dtype=np.uint8)
    big = tmp_path / "big.png"
    Image.fromarray(noise).save(big)  # 1.9 MB
    page = visit(strict_server.address)
    page.rank([*files[:3], big, *files[3:]], [group.prompt])
    check_ranked(page.cards(), models["tiny"], group.prompt, files[:3])
    assert "You gave 7 pictures, but the limit is 4: the last 3 were left out" in page.notices()
    assert re.search(r"big\.png: too large: 1\.\d MB, the limit is 1 MB", page.notices())

    huge = tmp_path / "huge.png"
    huge.write_bytes(b"x" * (9 * 2**20))  # not uploaded
    page = visit(strict_server.address)
    page.page.locator("#rc-files input[type=file]").set_input_files(str(huge))
    toast = page.page.get_by_test_id("toast-body")
    toast.wait_for()
    assert "huge.png" in toast.inner_text()
    page.rank([], [group.prompt])
    assert "No picture given" in page.notices()


def test_a_full_queue_is_reported(visit, strict_server, tmp_path):
    files = [str(tmp_path / f"{i}.jpg") for i in range(4)]
    # Small files that take a while to decode and shrink: one request runs, one waits, one is refused.
    Image.new("RGB", (5000, 4000), "red").save(files[0])
    for file in files[1:]:
        shutil.copy(files[0], file)
    pages = [visit(strict_server.address) for _ in range(3)]
    for page in pages:
        page.page.locator("#rc-files input[type=file]").set_input_files(files)
        page.page.locator("#rc-files .file-preview tr").nth(3).wait_for()
        page.page.locator("#rc-prompts textarea").fill("a red star")
    for page in pages:
        page.page.evaluate("document.querySelector('#rc-rank').click()")
    for page in pages:
        page.page.locator("#rc-results .rc-card, [data-testid=toast-body]").first.wait_for()
    toasts = [t for page in pages for t in page.page.get_by_test_id("toast-body").all_inner_texts()]
    assert any("currently busy" in toast for toast in toasts)  # gradio's message
    assert any(page.page.locator(".rc-card").count() for page in pages)


def test_names_and_prompts_are_escaped(visit, server, files, tmp_path):
    image = shutil.copy(files[0], tmp_path / "<b>&amp;{{x}}${1}.png")
    page = visit(server.address)
    long = "a red circle " * 20
    page.rank([image, files[1]], [MARKUP, long])
    headings = page.page.locator("#rc-results h3").all_inner_texts()
    assert MARKUP in headings
    assert page.page.locator("#rc-results img").count() == 0
    assert "taken over" not in page.page.title()
    assert "tiny reads at most 35 tokens of a prompt and ignored “" in page.notices()
    page.rank([files[1]], ["a red\u202e\x9b star"], more=[])
    assert "a red\\u202e\\x9b star" in page.page.locator("#rc-results h3").all_inner_texts()


def test_the_page_explains_the_score(visit, server, files, group, models):
    page = visit(server.address)
    page.page.get_by_role("tab", name="What a score means").click()
    assert page.page.locator("#rc-meaning .rc-chart").count() == 1
    assert page.page.locator("#rc-meaning .rc-tick").count() == 0
    page.page.get_by_role("tab", name="Rank pictures").click()
    page.rank(files, [group.prompt])
    page.page.get_by_role("tab", name="What a score means").click()
    assert page.page.locator("#rc-meaning .rc-chart").count() == 2
    assert page.page.locator("#rc-meaning .rc-tick").count() == 2 * len(files)
    text = page.page.locator("#rc-meaning").inner_text()
    for model in models.values():
        assert model.config.score_quantiles.source in text
        assert f"better than {model.percentile(1.0):.0f}%" in text
    best = max(models["tiny"].score(group.prompt, files))
    assert f"your best: {best:.2f}" in page.page.locator("#rc-meaning").text_content()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_example_fits_a_phone(visit, server, scheme):
    page = visit(server.address, width=390, height=844, scheme=scheme)
    page.page.locator("#rc-example").click()
    page.page.locator("#rc-results .rc-card").nth(7).wait_for()
    assert page.page.evaluate("document.documentElement.scrollWidth") <= 390
    colors = page.page.evaluate(
        """() => {
            const style = name => getComputedStyle(document.querySelector(name));
            return [style('body').backgroundColor, style('.rc-card').backgroundColor]
                .concat(['.rc-score', '.rc-file', '.rc-title h1'].map(name => style(name).color));
        }"""
    )
    body, card, score, file, title = (brightness(color) for color in colors)
    assert (body < 0.3) == (card < 0.3) == (scheme == "dark")
    assert abs(score - card) > 0.5
    assert abs(file - card) > 0.25
    assert abs(title - body) > 0.5


def brightness(color):
    return sum(map(float, re.findall(r"[\d.]+", color)[:3])) / 3 / 255


def test_no_request_leaves_this_machine(visit, server):
    page = visit(server.address)
    # The browser refuses requests to other hosts, so `visit` would not see them.
    refused = page.page.evaluate(
        "fetch('https://example.com/font.woff2').then(() => 'fetched', error => 'refused')"
    )
    assert refused == "refused"
    port = urlsplit(server.address).port
    if Path("/proc/net/tcp").exists():
        listening = [
            line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if " 0A " in line
        ]
        assert [a for a in listening if a.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]  # 127.0.0.1
    settings = page.page.evaluate("window.gradio_config")
    assert settings["analytics_enabled"] is False
