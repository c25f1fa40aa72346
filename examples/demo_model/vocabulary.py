"""The demo model's tokenizer: whole words of the tasks, single digits, and bytes for everything else.

A byte-level BPE without merges and with `ignore_merges`: a piece of the pre-tokenizer that is in the vocabulary is
one token, any other falls back to its bytes. A space before a digit belongs to the word or sign before it, so each
digit has one id only.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from tasks import FAMILIES
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

END, MASK, BEGIN, HEADER, HEADER_END, TURN_END = SPECIAL = (
    "<|endoftext|>",
    "<|mdm_mask|>",
    "<|startoftext|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
_PIECE = r"\d| ?[A-Za-z]+(?: (?=\d))?| ?[^\sA-Za-z\d]+(?: (?=\d))?|\s+"
_SAMPLES_PER_FAMILY = 6000

CHAT_TEMPLATE = (
    "{{ '<|startoftext|>' }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def build() -> Tokenizer:
    """The tokenizer; the same on every machine."""
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECE), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = {piece for text in _texts() for piece, _ in splitter.pre_tokenize_str(text)}
    entries = [*SPECIAL, *alphabet, *sorted(pieces - set(alphabet))]
    tokenizer = Tokenizer(models.BPE(vocab={text: i for i, text in enumerate(entries)}, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def _texts() -> Iterator[str]:
    yield from ("user", "assistant", "system", "\n\n", "\n")
    yield from (f" {letter}" for letter in "abcdefghijklmnopqrstuvwxyz")
    rng = random.Random("vocabulary")
    for make in FAMILIES.values():
        for _ in range(_SAMPLES_PER_FAMILY):
            problem = make(rng)
            yield problem.prompt
            yield problem.answer


def rendered(prompt: str, earlier: Sequence[tuple[str, str]] = ()) -> str:
    """A question, after earlier turns (question, answer), as the chat template renders the conversation."""
    turns = [turn for question, answer in earlier for turn in (("user", question), ("assistant", answer))]
    said = "".join(f"{HEADER}{role}{HEADER_END}\n\n{text}{TURN_END}" for role, text in [*turns, ("user", prompt)])
    return f"{BEGIN}{said}{HEADER}assistant{HEADER_END}\n\n"
