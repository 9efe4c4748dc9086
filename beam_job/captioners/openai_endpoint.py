"""`--captioner=openai`: captions by a model behind an endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import base64
import io
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from beam_job.captioners.chat_answers import FilteredAnswer, captions_in, tokens_in
from beam_job.captioners.chat_client import ChatClient, EndpointError, KeyFormatError
from beam_job.captioners.versions import caption_digest
from beam_job.config import JobConfig
from beam_job.inputs.endpoint import Endpoint
from beam_job.storage import CONTENT, LATER, OPTIONS
from beam_job.storage.responses import is_transient
from model import Caption, CaptionerError, CaptionFailure, Decoding, EndRun, Picture

DEFAULT_PROMPT = "Describe this image in one sentence."
DEFAULT_MAX_SIDE = 768  # several hundred tokens with most models; the words of a caption need no more
_REFUSED = (401, 402, 403, 404, 407)  # which rarely depend on the picture
_BAD_PARAMETER = (400, 422)


class EndpointFailure(CaptionFailure):
    """The endpoint answered a picture's request with an error, or not at all."""


class OpenAiCaptioner:
    """Captions pictures by requests to an endpoint.

    To distinguish errors that affect every picture from those of a single one, the captioner sends a request with a
    test picture of its own: if that fails too, the run ends.

    Args:
      endpoint: where requests go, and how.
      model: the model's name there.
      decoding: temperature, seed and number of captions.
      max_new_tokens: limit for a response.
      max_side: of a picture, in pixels.
      version: see `PictureCaptioner`.
      max_tokens: after which no more requests are sent; None for no limit.

    Raises:
      CaptionerError: the key in the environment is none.
    """

    batch_size = 1
    on_gpu = False
    engine, precision = "openai", "remote"

    def __init__(
        self,
        endpoint: Endpoint,
        model: str,
        decoding: Decoding,
        max_new_tokens: int,
        max_side: int,
        version: str,
        max_tokens: int | None = None,
    ) -> None:
        self.version = version
        self.max_side = max_side
        self.batches_at_once = endpoint.concurrency
        self._endpoint = endpoint
        self._model = model
        self._num_captions = decoding.num_captions
        self._max_tokens = max_tokens
        self._parameters = _parameters(decoding, max_new_tokens, endpoint.logprobs)
        self._may_drop = {"temperature"} if self._parameters["temperature"] == 0 else set()
        try:
            self._client = ChatClient(endpoint)
        except KeyFormatError as error:
            raise CaptionerError(str(error)) from error
        self._lock = threading.Lock()  # guards the four below
        self._counts: Counter[str] = Counter()
        self._seconds = 0.0
        self._spent = 0
        self._succeeded_at = 0.0
        self._probing = threading.Lock()  # guards the two below, and is held while a probe is under way
        self._probed_at = 0.0
        self._down: CaptionerError | None = None

    def check(self) -> None:
        """Asks for a caption, before the run.

        Raises:
          CaptionerError: there would be no captions, or none with what the options ask for.
        """
        try:
            answer = self._complete(_message(DEFAULT_PROMPT, _probe_picture(), self._endpoint.jpeg_quality), probe=True)
        except EndpointError as error:
            raise self._explained(error) from error
        if self._max_tokens is not None and tokens_in(answer) is None:
            raise self._wrong("does not report the tokens that it uses, which --max_tokens_total needs")
        if len(answer["choices"]) < self._num_captions:
            raise self._wrong(f"returns one caption per request, not --num_captions={self._num_captions}")
        try:
            caption, *_ = captions_in(answer, 1)
        except CaptionFailure:
            return  # it works, and may have more to say about other pictures
        if self._endpoint.logprobs and caption.score is None:
            raise self._wrong("does not return log-probabilities; leave out --logprobs")

    def caption_pictures(self, pictures: Sequence[Picture]) -> list[list[Caption] | CaptionFailure]:
        """A request for each picture, one after the other; threads that call this make several at the same time."""
        return [self._caption(picture) for picture in pictures]

    def take_counts(self) -> Mapping[str, int]:
        """Requests, those of them that were repetitions, tokens and seconds since the last call."""
        with self._lock:
            counts, self._counts = self._counts, Counter()
            seconds, self._seconds = divmod(self._seconds, 1)
        return counts | {"request_seconds": int(seconds)} if counts else {}

    def _caption(self, picture: Picture) -> list[Caption] | CaptionFailure:
        if self._max_tokens is not None and self._spent >= self._max_tokens:
            return EndRun(f"--max_tokens_total is spent ({self._spent:,} tokens in this process)")
        started = time.monotonic()
        content = _message(picture.prompt or DEFAULT_PROMPT, picture.pixels, self._endpoint.jpeg_quality)
        try:
            answer = self._complete(content)
        except EndpointError as error:
            self._stop_if_down(error, started)
            return _failure(error)
        try:
            return captions_in(answer, self._num_captions)
        except CaptionFailure as failure:
            return failure

    def _complete(self, content: list[dict[str, Any]], probe: bool = False) -> dict[str, Any]:
        """The answer to a message, whose parameters are adapted to what the server takes. Raises EndpointError."""
        while True:
            payload = {"model": self._model, "messages": [{"role": "user", "content": content}], **self._parameters}
            attempts: list[float] = []
            try:
                answer = self._client.probe(payload) if probe else self._client.post(payload, attempts.append)
            except EndpointError as error:
                if not self._adapt(error, payload):
                    raise
            else:
                self._count_answer(answer)
                return answer
            finally:
                self._count_attempts(attempts)

    def _adapt(self, error: EndpointError, payload: Mapping[str, Any]) -> bool:
        """Whether another request than `payload` may succeed: newer models take other parameters."""
        if error.status not in _BAD_PARAMETER:
            return False
        if "max_tokens" in payload and "max_completion_tokens" in error.detail:
            others = {name: value for name, value in self._parameters.items() if name != "max_tokens"}
            self._parameters = others | {"max_completion_tokens": payload["max_tokens"]}
            return True
        for name in self._may_drop & payload.keys():
            if name in error.detail:
                self._parameters = {key: value for key, value in self._parameters.items() if key != name}
                return True
        return False

    def _count_attempts(self, attempts: Sequence[float]) -> None:
        with self._lock:
            self._seconds += sum(attempts)
            if attempts:
                self._counts.update({"requests": len(attempts), "retries": len(attempts) - 1})

    def _count_answer(self, answer: Mapping[str, Any]) -> None:
        given, generated = tokens_in(answer) or (0, 0)
        with self._lock:
            self._succeeded_at = time.monotonic()
            self._spent += given + generated
            self._counts.update({"tokens_in": given, "tokens_out": generated})

    def _stop_if_down(self, error: EndpointError, started: float) -> None:
        """Returns if the error is that of one picture, whose request began at `started`.

        Raises:
          CaptionerError: the endpoint refuses every picture, or does not answer any more.
        """
        with self._probing:
            if self._probed_at > started:
                if self._down:
                    raise self._down
                return
            if error.status not in _REFUSED and self._succeeded_at > started:
                return
            try:
                self._complete(_message(DEFAULT_PROMPT, _probe_picture(), self._endpoint.jpeg_quality), probe=True)
                self._down = None
            except EndpointError as reason:
                self._down = self._explained(reason)
            self._probed_at = time.monotonic()
            if self._down:
                raise self._down from error

    def _explained(self, error: EndpointError) -> CaptionerError:
        variable, hint = self._endpoint.api_key_env, ""
        if error.status in (401, 403):
            hint = f"check the key in {variable}" if self._client.has_key else f"set {variable} to the server's key"
        elif error.status in (404, 405):
            hint = f"check --model={self._model} and the address, which usually ends in /v1"
        elif error.cause == "Redirected":
            hint = "give the address that it redirects to"
        elif error.status is None and error.cause not in ("BadAnswer", "AnswerTooLong"):
            hint = "check that the server is running and the address is right"
        return self._wrong(f"{error}{hint and f'; {hint}'}")

    def _wrong(self, what: str) -> CaptionerError:
        return CaptionerError(f"--endpoint={self._endpoint.name} {what}")


def open_captioner(config: JobConfig, version: str | None) -> OpenAiCaptioner:
    """The captioner of a job; of its --max_tokens_total each of its processes has its share."""
    if config.endpoint is None or not config.model:
        raise CaptionerError("--captioner=openai needs --endpoint=URL and --model=NAME")
    endpoint, max_side = config.endpoint, config.max_side or DEFAULT_MAX_SIDE
    sent = {"side": max_side, "quality": endpoint.jpeg_quality, "default_prompt": DEFAULT_PROMPT}
    parameters = _parameters(config.decoding, config.max_new_tokens, logprobs=False)
    digest = caption_digest(config, sent=sent, parameters=parameters)
    total = endpoint.max_tokens_total
    return OpenAiCaptioner(
        endpoint,
        config.model,
        config.decoding,
        config.max_new_tokens,
        max_side,
        f"openai:{config.model}-{digest}",
        None if total is None else max(1, total // config.workers),
    )


def _parameters(decoding: Decoding, max_new_tokens: int, logprobs: bool) -> dict[str, Any]:
    """The request's parameters. Only sampling has a temperature above 0 and a seed."""
    samples = decoding.method == "sample" or decoding.temperature != Decoding.temperature
    parameters: dict[str, Any] = {
        "max_tokens": max_new_tokens,
        "temperature": decoding.temperature if samples else 0,
    }
    if samples:
        parameters["seed"] = decoding.seed
    if decoding.num_captions > 1:
        parameters["n"] = decoding.num_captions
    return parameters | ({"logprobs": True} if logprobs else {})


def _message(prompt: str, pixels: npt.NDArray[np.uint8], quality: int) -> list[dict[str, Any]]:
    """The parts of a message: a JPEG as a `data:` URL, and text. Most open models were trained in this order."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    url = f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
    return [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": prompt}]


def _probe_picture() -> npt.NDArray[np.uint8]:
    """uint8[224, 224, 3]: a gradient, of a size that every model takes."""
    ramp = np.arange(224, dtype=np.uint8)
    return np.stack(np.broadcast_arrays(ramp[:, None], ramp[None], np.uint8(128)), axis=-1)


def _failure(error: EndpointError) -> CaptionFailure:
    """The failure of one picture: a bad request would be repeated, since other options caption all pictures again."""
    message = f"the endpoint {error}"
    if error.code == "content_filter":
        return FilteredAnswer(message)
    if error.status in _REFUSED:
        return EndpointFailure(message, OPTIONS)
    is_content = error.cause == "AnswerTooLong" or (error.status is not None and not is_transient(error.status))
    return EndpointFailure(message, CONTENT if is_content else LATER)
