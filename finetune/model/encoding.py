"""Texts -> token ids and event numbers by arrays: each different word is tokenized once."""

import re
from collections.abc import Sequence
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from data_prep.phrases import SHORT_UNITS, event_starts

# How these split a text, what stands between two spaces becomes the same tokens alone as within its text.
BY_WORD = ("WhitespaceSplit", "BertPreTokenizer", "ByteLevel")
MOST_KEPT = 100_000  # words, of any texts
NUMBER = re.compile(r"\d+")

Parts = tuple[np.ndarray, np.ndarray, np.ndarray]  # ids, events and lengths of texts one after the other


class Encoder:
    """Encodes as the tokenizer does; texts longer than its model_max_length lose their oldest events, whole ones.

    A text whose newest event alone is too long is cut within it.

    Args:
        tokenizer: A fast one.
        keep: Whether to keep the tokens of words for the next texts, as few texts are made of words seen before.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, keep: bool = False) -> None:
        self.tokenizer, self.most = tokenizer, tokenizer.model_max_length
        self.kept: dict[str, list[int]] | None = {} if keep else None
        self.by_word = type(backend(tokenizer).pre_tokenizer).__name__ in BY_WORD
        # Words that take all spaces before them, so that an empty word between two spaces is no word beside them.
        added = tokenizer.added_tokens_decoder.values()
        self.strips = any(word.lstrip and not word.special for word in added)
        self.kind = np.dtype(np.uint16 if len(tokenizer) <= 1 << 16 else np.int32)
        whole = tokenizer("a", verbose=False)
        special = np.array([sequence is None for sequence in whole.sequence_ids(0)])
        self.before = np.array(whole["input_ids"][: special.argmin()], self.kind)
        self.after = np.array(whole["input_ids"][len(special) - special[::-1].argmin() :], self.kind)

    def __call__(self, texts: pa.Array) -> Parts:
        """The tokens of each text.

        Args:
            texts: Of shape (texts,).

        Returns:
            The ids of all tokens and the number of each token's event, 0 for a text's newest one and -1 for header and
            special tokens, both of shape (tokens,), and the number of tokens of each text, of shape (texts,).
        """
        if not len(texts):
            return np.empty(0, self.kind), np.empty(0, np.int16), np.empty(0, np.int64)
        by_word = self.by_word
        if by_word and self.strips:
            by_word = not pc.any(pc.match_substring(texts, "  ")).as_py()  # pyright: ignore[reportAttributeAccessIssue]
        ids, event, lengths = self._by_word(texts) if by_word else self._by_text(texts)
        if (lengths > self.most).any():
            return self._cut(ids, event, lengths)
        return ids, event, lengths

    def _by_word(self, texts: pa.Array) -> Parts:
        split = pc.split_pattern(texts, " ")  # pyright: ignore[reportAttributeAccessIssue] - made at run time
        counts = np.diff(split.offsets.to_numpy())
        coded = split.flatten().dictionary_encode()
        code, known = coded.indices.to_numpy(), coded.dictionary.to_pylist()
        first = np.zeros(len(code), bool)
        starts = np.cumsum(counts) - counts
        first[starts] = True
        begins = _begins(code, known, first)
        event = np.cumsum(begins)
        event -= np.repeat(event[starts] - begins[starts], counts) + 1
        # A byte-level tokenizer takes the space before a word for a part of it.
        code = np.where(first, code + len(known), code)
        tokens = self._of_words([f" {word}" for word in known] + known)
        sizes = np.fromiter(map(len, tokens), np.int64, len(tokens))
        flat = np.fromiter((token for row in tokens for token in row), self.kind, sizes.sum())
        of_word = sizes[code]
        if (of_word == 1).all():
            ids = flat[(np.cumsum(sizes) - sizes)[code]]
        else:
            ids = flat[_ranges((np.cumsum(sizes) - sizes)[code], of_word)]
            event = np.repeat(event, of_word)
        lengths = np.add.reduceat(of_word, starts)
        return self._with_special(ids, event, lengths)

    def _of_words(self, words: list[str]) -> list[list[int]]:
        """The tokens of each word."""
        if self.kept is None:
            return self.tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
        new = [word for word in words if word not in self.kept]
        if new:
            if len(self.kept) + len(new) > MOST_KEPT:
                self.kept, new = {}, words
            found = self.tokenizer(new, add_special_tokens=False, verbose=False)["input_ids"]
            self.kept.update(zip(new, found, strict=True))
        return [self.kept[word] for word in words]

    def _with_special(self, ids: np.ndarray, event: np.ndarray, lengths: np.ndarray) -> Parts:
        """Put the tokenizer's special tokens around each text."""
        around = len(self.before) + len(self.after)
        whole = lengths + around
        ends = np.cumsum(whole)
        places = np.arange(len(ids)) + np.repeat(np.arange(len(lengths)) * around + len(self.before), lengths)
        found, events = np.empty(ends[-1], self.kind), np.full(ends[-1], -1, np.int16)
        found[places], events[places] = ids, event
        for i, token in enumerate(self.before):
            found[ends - whole + i] = token
        for i, token in enumerate(self.after):
            found[ends - len(self.after) + i] = token
        return found, events, whole

    def _by_text(self, texts: pa.Array) -> Parts:
        """Any fast tokenizer, by the places of its tokens in each text; some twenty times slower."""
        written = texts.to_pylist()
        encoded = self.tokenizer(written, truncation=False, return_offsets_mapping=True, verbose=False)
        events = []
        for i, text in enumerate(written):
            special = np.array([sequence is None for sequence in encoded.sequence_ids(i)], bool)
            # By its end, as some tokens begin with the space before them.
            ends = np.array(encoded["offset_mapping"][i], int).reshape(-1, 2)[:, 1] - 1
            event = np.searchsorted(event_starts(text), ends, side="right") - 1
            event[special] = -1
            events.append(event.astype(np.int16))
        ids = [np.array(row, self.kind) for row in encoded["input_ids"]]
        return np.concatenate(ids), np.concatenate(events), np.fromiter(map(len, ids), np.int64, len(ids))

    def _cut(self, ids: np.ndarray, event: np.ndarray, lengths: np.ndarray) -> Parts:
        tail = len(self.after)
        room = self.most - tail
        ends = np.cumsum(lengths)
        starts = ends - lengths
        place = np.arange(len(ids)) - np.repeat(starts, lengths)
        begins = np.flatnonzero((event > 0) & (event != np.roll(event, 1)) & (place <= room))
        text = np.repeat(np.arange(len(lengths)), lengths)[begins]
        end = np.full(len(lengths), room)
        last = np.append(text[1:] != text[:-1], True) if len(text) else np.empty(0, bool)
        end[text[last]] = place[begins[last]]
        end = np.where(lengths > self.most, end, lengths - tail)
        kept = place < np.repeat(end, lengths)
        kept |= place >= np.repeat(lengths - tail, lengths)
        return ids[kept], event[kept], np.where(lengths > self.most, end + tail, lengths)


def backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """What a fast tokenizer works with."""
    return cast(PreTrainedTokenizerFast, tokenizer).backend_tokenizer


def _ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The numbers start, start + 1 ... of each, count of them, one after the other."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1]) + np.repeat(starts - (ends - counts), counts)


def _begins(code: np.ndarray, known: Sequence[str], first: np.ndarray) -> np.ndarray:
    """Whether an event begins with each word, as `data_prep.phrases.event_starts` finds it in a text.

    Args:
        code: The number of each word of all texts, one after the other.
        known: The different words.
        first: Whether a text begins with the word.
    """

    def which(*holds: bool) -> np.ndarray:
        return np.array(holds, bool)[code]

    def following(flags: np.ndarray) -> np.ndarray:
        """Of each word the flag of the next one in the same text."""
        return np.append(flags[1:] & ~first[1:], False)

    begins = which(*(word.startswith("gap=") for word in known))
    if not any(word in ("same", "after") or word.startswith("first") for word in known):
        return begins
    more = following(np.ones(len(code), bool))

    def closing(*names: str) -> np.ndarray:
        """Words that end an event's beginning: `day: basket` or `day.`."""
        colon = which(*(word in [f"{name}:" for name in names] for word in known))
        return colon & more | which(*(word.startswith(tuple(f"{name}." for name in names)) for word in known))

    opens = first | np.append(False, which(*(word.endswith(".") for word in known))[:-1])
    same = which(*(word == "same" for word in known)) & following(closing("day"))
    units = [f"{unit}{s}" for unit in (*SHORT_UNITS.values(), "day") for s in ("", "s")]
    days = which(*(NUMBER.fullmatch(word) is not None for word in known)) & following(closing(*units))
    after = which(*(word == "after" for word in known)) & following(days)
    return begins | opens & (same | after | closing("first"))
