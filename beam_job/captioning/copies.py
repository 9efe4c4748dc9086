"""Images that wait for the captions of another image with the same content (`--dedupe=content`)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Generic

from beam_job.captioning.batch_runner import OwnerT
from beam_job.captioning.contents import Answer, Claim, Contents
from beam_job.inputs.prompts import Prompt
from beam_job.records import CaptionedImage, DecodedImage, Failure, now

Outcome = CaptionedImage | Failure


class Copies(Generic[OwnerT]):
    """Decides which images the captioner gets; only the model's thread calls it. Raises what `Contents` raises.

    Args:
      contents: of the run.
      prompts: of the job. Where they differ by carried columns, so do the captions of copies.
    """

    def __init__(self, contents: Contents, prompts: Sequence[Prompt]) -> None:
        self._contents = contents
        self._prompts = prompts
        self._own: set[bytes] = set()  # which this process is captioning
        self._waiting: dict[bytes, list[tuple[OwnerT, DecodedImage]]] = {}
        self.waiting = 0  # images

    def claim(self, owner: OwnerT, image: DecodedImage) -> Answer | Claim:
        """What to do with an image: its content's answer, MINE to caption it, or BUSY if it waits from now on."""
        key = self._key(owner, image)
        claim = Claim.BUSY if key in self._own or key in self._waiting else self._contents.claim(key, now())
        if claim is Claim.MINE:
            self._own.add(key)
        elif claim is Claim.BUSY:
            self._waiting.setdefault(key, []).append((owner, image))
            self.waiting += 1
        return claim

    def settle(
        self, owner: OwnerT, image: DecodedImage, outcome: Outcome
    ) -> tuple[Answer, list[tuple[OwnerT, DecodedImage]]]:
        """Notes the outcome of an image that was MINE; returns the answer, and the images that waited for it."""
        key, answer = self._key(owner, image), Answer(image.input.uri, outcome)
        self._own.discard(key)
        self._contents.put(key, answer)
        return answer, self._take(key)

    def poll(self) -> Iterator[tuple[OwnerT, DecodedImage, Answer | Claim]]:
        """Images that waited for another process, with their answer; MINE where that process has given up."""
        for key in [key for key in self._waiting if key not in self._own]:
            claim = self._contents.claim(key, now())
            if claim is Claim.BUSY:
                continue
            if claim is Claim.MINE:
                self._own.add(key)
                first, *others = self._take(key)
                self._waiting[key] = others
                self.waiting += len(others)
                yield *first, claim
            else:
                yield from ((*waiting, claim) for waiting in self._take(key))

    @property
    def wait_for_others(self) -> bool:
        """Whether any image waits for another process."""
        return not self._waiting.keys() <= self._own

    def close(self) -> None:
        """Closes the contents."""
        self._contents.close()

    def _take(self, key: bytes) -> list[tuple[OwnerT, DecodedImage]]:
        taken = self._waiting.pop(key, [])
        self.waiting -= len(taken)
        return taken

    def _key(self, owner: OwnerT, image: DecodedImage) -> bytes:
        """A hash of the file's bytes, and of what the prompts ask about it."""
        content: str = image.image_columns["sha256"]
        named = [prompt for prompt in self._prompts if prompt.columns]
        if not named:
            return bytes.fromhex(content)
        columns = owner.columns_of(image.input.uri)
        asked = "\0".join([content, *(prompt.filled(columns) for prompt in named)])
        return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).digest()
