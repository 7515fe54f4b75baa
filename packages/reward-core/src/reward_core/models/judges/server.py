"""A vision-language model behind an OpenAI-compatible API, such as vLLM's or SGLang's."""

from __future__ import annotations

import base64
import math
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from ...errors import InputError, RequestError, ServerError
from .answers import Answer, Outcome, Question, word_of
from .server_requests import ServerRequests, TransientError

WORKERS = 8
TOP_TOKENS = 20  # most that vLLM and OpenAI return


class ServerVLM:
    """A model that is served at a URL.

    Questions are sent as chat completions: images as JPEG in data URLs, then the text, with temperature 0.

    Args:
        requests: the server.
        model: name of the served model.
        workers: requests at once.
        fields: further fields of a request, such as {"chat_template_kwargs": {"enable_thinking": False}}.
    """

    def __init__(
        self,
        requests: ServerRequests,
        model: str,
        *,
        workers: int = WORKERS,
        fields: Mapping[str, Any] | None = None,
    ):
        if type(workers) is not int or workers < 1:
            raise InputError(f"Cannot use workers={workers!r}: it must be a whole number of at least 1.")
        self.requests, self.model, self.workers, self.fields = requests, model, workers, dict(fields or {})

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"server": self.requests.url, "model": self.model, "temperature": 0, "fields": self.fields}

    @property
    def questions_at_once(self) -> int:
        return 8 * self.workers

    def answers(self, questions: Sequence[Question], batch_size: int | None = None) -> Iterator[Outcome]:
        """Yield the answer or error of each question, in order.

        Args:
            questions: the questions.
            batch_size: requests at once (default: ``workers``).

        Raises:
            ServerError: the server cannot answer any question.
        """
        workers = self.workers if batch_size is None else batch_size
        stop = threading.Event()
        pool = ThreadPoolExecutor(max(1, min(workers, len(questions))), "judge")
        try:
            pending: deque[Future[Outcome]] = deque(
                pool.submit(self._outcome, question, stop) for question in questions
            )
            while pending:
                yield pending.popleft().result()
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _outcome(self, question: Question, stop: threading.Event) -> Outcome:
        try:
            return self._ask(question, stop)
        except RequestError as error:
            return error

    def _ask(self, question: Question, stop: threading.Event) -> Answer:
        images = [
            {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{_base64(image)}"}}
            for image in question.images
        ]
        content = [*images, {"type": "text", "text": question.text}]
        request: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": question.max_tokens,
            **self.fields,
        }
        if question.words is not None:
            request |= {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP_TOKENS}
        answer = self.requests.post("chat/completions", request, stop)
        try:
            choice = answer["choices"][0]
            text = choice["message"].get("content") or ""
            if not isinstance(text, str):
                raise TypeError
        except (KeyError, IndexError, TypeError, AttributeError):
            raise RequestError(
                f"Cannot use the answer of the server {self.requests.url}: it has no choices with a message."
            ) from None
        if question.words is None:
            return Answer(text, complete=choice.get("finish_reason") != "length")
        return Answer(text, probability=_probability(self._first_tokens(choice), question.words))

    def _first_tokens(self, choice: dict[str, Any]) -> list[tuple[str, float]]:
        """Return the most likely first tokens with their log-probabilities.

        Raises:
            ServerError: the server returned none.
        """
        try:
            top = choice["logprobs"]["content"][0]["top_logprobs"]
            tokens = [(str(token["token"]), float(token["logprob"])) for token in top]
        except (KeyError, IndexError, TypeError, ValueError):
            tokens = []
        if not tokens:
            raise ServerError(
                f"Cannot compute a probability with the server {self.requests.url}: it returns no "
                "top_logprobs. Use a server that does, or load the model in this process."
            )
        return tokens


def served_model(requests: ServerRequests, expected: Sequence[str]) -> str:
    """Return the first of the expected names that a server serves.

    Raises:
        ServerError: the server cannot be reached, or serves none of them; the error lists what it serves.
    """
    try:
        answer = requests.get("models")
    except TransientError as retried:
        raise retried.error from retried.__cause__
    try:
        served = [str(model["id"]) for model in answer["data"]]
    except (KeyError, TypeError):
        served = []
    for name in expected:
        if name in served:
            return name
    listed = ", ".join(map(repr, served[:20])) or "nothing"
    raise ServerError(
        f"Cannot use the server {requests.url}: it does not serve {' or '.join(map(repr, expected))}. It "
        f"serves {listed}. Choose one with served_model (--served-model)."
    )


def _probability(tokens: Sequence[tuple[str, float]], words: tuple[str, str]) -> float | None:
    """Return the probability of the first word, of both words; None if there is neither.

    A spelling that is not among the most likely tokens counts as 0.
    """
    sums = [math.fsum(math.exp(p) for token, p in tokens if word_of(token) == word_of(w)) for w in words]
    total = math.fsum(sums)
    return sums[0] / total if total > 0 else None


def _base64(image: bytes) -> str:
    return base64.b64encode(image).decode("ascii")
