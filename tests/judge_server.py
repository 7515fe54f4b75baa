"""A stand-in for an OpenAI-compatible server of a vision-language model."""

import base64
import io
import json
import re
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image, ImageStat

MODEL = "CodeGoat24/UnifiedReward-2.0-qwen-7b"
POINTWISE = "Alignment Score (1-5): {0}\nCoherence Score (1-5): {0}\nStyle Score (1-5): {1}"


class JudgeServer:
    """Answers by the brightness of images; ``faults`` changes answers.

    Attributes:
        url: base URL.
        requests: the JSON of all chat requests, with "authorization" and "images" (brightness in [0, 1]).
        faults: prompt -> list of faults, used up one by one; the last one stays. A fault is a status, a pair
            (status, headers), a text, a number of seconds to wait, or None for the usual answer.
        serving: names of served models.
        logprobs: whether probabilities of tokens are returned.
        most_at_once: largest number of requests at one time.
    """

    def __init__(self):
        self.requests, self.faults, self.serving, self.logprobs = [], {}, [MODEL], True
        self.counts, self.now, self.most_at_once, self.lock = Counter(), 0, 0, threading.Lock()
        self.pause = 0.0

    def answer(self, request):
        """Return (status, headers, body)."""
        content = request["messages"][0]["content"]
        text = content[-1]["text"]
        images = [brightness(part["image_url"]["url"]) for part in content[:-1]]
        prompt = re.search(r'\[(.*)\]|"(.*)"', text.splitlines()[-1])
        prompt = prompt[1] or prompt[2]
        with self.lock:
            self.requests.append({**request, "images": images, "prompt": prompt})
            faults = self.faults.get(prompt, [None])
            fault = faults[min(self.counts[prompt], len(faults) - 1)]
            self.counts[prompt] += 1
        if isinstance(fault, int) and fault >= 400:
            return fault, {}, {"error": {"message": "no luck with key sesame"}}
        if isinstance(fault, tuple):
            return fault[0], fault[1], {"error": {"message": "slow down"}}
        if isinstance(fault, float):
            time.sleep(fault)
        time.sleep(self.pause)
        choice = {"message": {"content": fault if isinstance(fault, str) else usual(text, images)}}
        choice["finish_reason"] = "length" if str(fault).endswith("...") else "stop"
        if request.get("logprobs") and self.logprobs:
            choice |= first_token(images[0])
        return 200, {}, {"choices": [choice]}


def usual(text, images):
    """Return the usual answer: bright images are good."""
    if "Image 1" not in text:
        return POINTWISE.format(round(1 + 4 * images[0], 2), 3)
    share = 0.5 if abs(images[0] - images[1]) < 0.05 else 0.75 if images[0] > images[1] else 0.25
    block = f"\n Image 1: {share}\n Image 2: {1 - share}\n"
    return "\n".join(f"{name} Score:{block}" for name in ("Alignment", "Coherence", "Style"))


def first_token(bright):
    """Return log-probabilities of " Yes", "no" and "The" for a brightness; exp(-0.5) of them is not ours."""
    import math

    words = {" Yes": bright * 0.6, "no": (1 - bright) * 0.6, "The": 0.4}
    top = [{"token": word, "logprob": math.log(max(p, 1e-9))} for word, p in words.items()]
    return {"message": {"content": " Yes"}, "logprobs": {"content": [{"top_logprobs": top}]}}


def brightness(url):
    """Return the brightness in [0, 1] of a JPEG in a data URL."""
    head, _, data = url.partition(",")
    assert head == "data:image/jpeg;base64"
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (image.format, image.mode) == ("JPEG", "RGB")
    return round(ImageStat.Stat(image.convert("L")).mean[0] / 255, 2)


@contextmanager
def serve():
    """Run a `JudgeServer` in threads."""
    judge = JudgeServer()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

        def do_GET(self):
            self.reply(200, {}, {"data": [{"id": name} for name in judge.serving]})

        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            request["authorization"] = self.headers.get("Authorization")
            with judge.lock:
                judge.now += 1
                judge.most_at_once = max(judge.most_at_once, judge.now)
            try:
                answer = judge.answer(request)
            finally:  # before the reply, after which the client sends its next request
                with judge.lock:
                    judge.now -= 1
            with suppress(BrokenPipeError):  # the client did not wait
                self.reply(*answer)

        def reply(self, status, headers, content):
            body = json.dumps(content).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": len(body)}.items():
                self.send_header(name, str(value))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    judge.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
