"""Build the corpus of the tiny prior: short English documents from Debian packages and samples.

Every document is one to three sentences. Each source has its own reader, which yields paragraphs;
cutting, filtering, splitting and weighting are common to all.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import random
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast as FastTokenizer

BOS, EOS, PAD = "<s>", "</s>", "<pad>"
CONTEXT = 256


class CorpusError(RuntimeError):
    """A package could not be fetched, or a source came out empty."""


@dataclass(frozen=True)
class Document:
    """A short text, its source and the chance that it is offensive."""

    source: str
    text: str
    offensive: float = 0.0


@dataclass(frozen=True)
class Source:
    """Where some of the paragraphs come from, and how often a document is seen in an epoch."""

    name: str
    packages: tuple[str, ...]
    licence: str
    about: str
    weight: float
    read: Callable[[Path], Iterator[str]]


# Collections of jokes on nationalities, pictures made of characters, and lines of code.
SKIPPED_COOKIES = {"ascii-art", "debian", "drugs", "ethnic", "goedel", "magic", "perl"}

# Documents that match are dropped. ROT13, so that the list is not on display.
SLURS = re.compile(
    codecs.decode(
        r"\o(avttre|avttn|snttbg|sntf?\o|xvxr|fcvp\o|puvax|genaal|qlxr|ergneq|phag|yrfovna|"
        r"ubzbfrkhny|unaqvpnc|cbynpx|cbyyhpx|wnc\o|jbc\o|xbbx|tlcfl|arteb|pevccyr|encr|encvf|"
        r"zbyrfg|cnrqbcu|crqbcu|ubybpnhfg|anmv|uvgyre|juber|fyhg|vaprfg|fhvpvqr|shpx|"
        r"zbgureshpx|pbpxf?\o|cravf|intvan|cbea|oybjwbo|encvat|bja yv(?:sr|irf)|"
        r"xvyy (?:lbhe|uvz|ure|zl)frys)",
        "rot13",
    ),
    re.IGNORECASE,
)
# Rude documents that name a group of people are dropped too.
GROUPS = re.compile(
    r"\b(jew|muslim|islam|christian|catholic|arab|asian|african|indian|mexican|chinese|japanese|"
    r"people of|black (?:people|man|men|woman)|blacks|whites|gay|women|woman|girls?|female|wife|"
    r"wives|immigrant|foreigner|disabled|blind|deaf|fat|ugly|irish|italian|polish|french|german|russian)",
    re.IGNORECASE,
)
# Together they tell a clause from a phrase, at the price of some good sentences.
SUBJECT = re.compile(
    r"(?i)(I|you|he|she|it|we|they|the|this|that|these|those|his|her|my|your|our|their|there|"
    r"what|who|don't|please|(?-i:[A-Z])[a-z]+)\b"
)
VERB = re.compile(r"(?i)\b(is|are|was|were|\w+ed|\w+s|don't|did|has|had)\b")
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+(?=[\"'(]?[A-Z])")
ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St|Jr|Sr|vs|etc|e\.g|i\.e|cf|No|[A-Z])\.$")


def fetch(packages: tuple[str, ...], work: Path) -> None:
    """Download and unpack Debian packages below ``work``, those that are not there yet."""
    for package in packages:
        debs, tree = work / "deb" / package, work / "x" / package
        if tree.exists():
            continue
        debs.mkdir(parents=True, exist_ok=True)
        tree.parent.mkdir(exist_ok=True)
        got = subprocess.run(["apt-get", "download", package], cwd=debs, check=False)
        archives = sorted(debs.glob("*.deb"))
        if got.returncode or not archives:
            raise CorpusError(f"apt-get download {package} failed ({got.returncode})")
        if subprocess.run(["dpkg", "-x", archives[-1], tree], check=False).returncode:
            raise CorpusError(f"{archives[-1]} cannot be unpacked")


def read_fortunes(root: Path) -> Iterator[str]:
    """Fortune cookies, without the lines that say who is quoted."""
    for path in sorted(root.glob("fortunes*/usr/share/games/fortunes/*")):
        if path.suffix or not path.is_file() or path.name in SKIPPED_COOKIES:
            continue
        text = re.sub(r".\x08", "", path.read_text(encoding="utf-8", errors="replace"))
        for cookie in re.split(r"\n%\s*\n", text):
            lines = re.split(r"\n\s+--\s?", "\n" + cookie)[0].splitlines()
            if sum(bool(re.match(r"\s*[\w' ]+:\s", line)) for line in lines) < 3:
                yield " ".join(lines)


def read_wordnet(root: Path) -> Iterator[str]:
    """Example sentences of a dictionary; its mere phrases are left out."""
    for path in sorted(root.glob("wordnet-base/usr/share/wordnet/data.*")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            for example in re.findall(r'"([^"]+)"', line.partition(" | ")[2]):
                clause = SUBJECT.match(example) and VERB.search(example)
                if clause and len(example.split()) >= 5:
                    end = "" if example[-1] in ".!?" else "."
                    yield example[0].upper() + example[1:] + end


def read_devil(root: Path) -> Iterator[str]:
    """Entries of Ambrose Bierce's dictionary, without the verse."""
    path = root / "dict-devil/usr/share/dictd/devil.dict.dz"
    text = gzip.decompress(path.read_bytes()).decode()
    for entry in re.split(r"\n(?=[A-Z][A-Z' -]+,\s)", text)[1:]:
        head, _, rest = re.split(r"\n\s*\n|\n    ", entry)[0].partition(".  ")
        yield f"{head.split(',')[0].strip().capitalize()}: {rest}"


def read_jargon(root: Path) -> Iterator[str]:
    """Prose paragraphs of the Jargon File."""
    path = root / "jargon-text/usr/share/doc/jargon-text/jargon.txt.gz"
    text = gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace")
    for paragraph in re.split(r"\n\s*\n", text):
        prose = re.sub(r"^\s*\d+\.\s", "", re.sub(r"\[[^\]]*\]|[{}_]", "", paragraph))
        if len(prose) > 60 and re.match(r"\s*(?!See )[A-Z]", prose) and " : " not in prose:
            yield prose


def read_remarks(root: Path) -> Iterator[str]:
    """Sampled remarks, some of them with a second or third in the same mood."""
    rng = random.Random(0)
    lines = (root.parent / "remarks.jsonl").read_text(encoding="utf-8").splitlines()
    remarks = [json.loads(line) for line in lines]
    while remarks:
        size = rng.choices((1, 2, 3), weights=(60, 30, 10))[0]
        yield " ".join(r["text"] for r in remarks[:size] if r["kind"] == remarks[0]["kind"])
        remarks = remarks[size:]


SOURCES = (
    Source(
        "fortunes",
        ("fortunes", "fortunes-min"),
        "BSD (the collection)",
        "fortune cookies: quips, aphorisms, jokes",
        1.0,
        read_fortunes,
    ),
    Source(
        "wordnet",
        ("wordnet-base",),
        "WordNet 3.0 licence (BSD-like)",
        "example sentences of the dictionary",
        1.0,
        read_wordnet,
    ),
    Source(
        "devil",
        ("dict-devil",),
        "public domain",
        "Ambrose Bierce, The Devil's Dictionary, without the verse",
        1.0,
        read_devil,
    ),
    Source("jargon", ("jargon-text",), "public domain", "the Jargon File", 0.5, read_jargon),
    Source(
        "remarks",
        (),
        "samples of an Apache-2.0 model",
        "remarks sampled from SmolLM2-135M-Instruct: everyday, kind, grumpy, rude, swearing",
        2.0,
        read_remarks,
    ),
)


def sentences(paragraph: str) -> list[str]:
    """Cut a paragraph into sentences, with one space between words."""
    out: list[str] = []
    for part in SENTENCE_END.split(" ".join(paragraph.split())):
        if out and (ABBREVIATION.search(out[-1]) or len(out[-1]) < 8):
            out[-1] += " " + part
        else:
            out.append(part)
    return out


def cut(paragraph: str, rng: random.Random) -> Iterator[str]:
    """Documents of one to three sentences that follow each other in a paragraph."""
    parts = sentences(paragraph)
    while parts:
        size = rng.choices((1, 2, 3), weights=(40, 40, 20))[0]
        yield " ".join(parts[:size])
        parts = parts[size:]


def normal(text: str) -> str:
    """One style of quotation marks; none where cutting has separated a pair."""
    text = text.replace("``", '"').replace("''", '"').replace("`", "'")
    return (text.replace('"', "") if text.count('"') % 2 else text).strip()


def is_prose(text: str) -> bool:
    """Whether a document looks like English sentences of a fair length, free of slurs."""
    letters = sum(c.isalpha() or c == " " for c in text)
    return (
        15 <= len(text) <= 320
        and len(text.split()) >= 4
        and text.isascii()
        and letters / len(text) > 0.88
        and sum(c.isupper() for c in text) < 0.2 * len(text)
        and text[0] in "\"'" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        and text.rstrip("\"')")[-1:] in {".", "!", "?"}
        and not SLURS.search(text)
    )


def offensive(texts: list[str]) -> list[float]:
    """The classifier's chance that each text is offensive."""
    from profanity_check import predict_prob

    return [float(p) for p in predict_prob(texts)] if texts else []


def build(work: Path, seed: int) -> tuple[list[Document], list[Document]]:
    """Training and held-out documents, each once; a paragraph's documents stay together."""
    kept: dict[str, tuple[str, bool]] = {}
    for source in SOURCES:
        fetch(source.packages, work)
        rng = random.Random(seed)
        before = len(kept)
        for paragraph in source.read(work / "x"):
            digest = hashlib.sha256(paragraph.encode(errors="replace")).digest()
            held_out = digest[0] < 8
            for text in cut(paragraph, rng):
                text = normal(text)
                if is_prose(text):
                    kept.setdefault(text, (source.name, held_out))
        if len(kept) == before:
            raise CorpusError(f"the source {source.name} holds no documents")
    train: list[Document] = []
    held: list[Document] = []
    for (text, (name, held_out)), p in zip(kept.items(), offensive(list(kept)), strict=True):
        if p < 0.4 or not GROUPS.search(text):
            (held if held_out else train).append(Document(name, text, p))
    return train, held


def epoch(train: list[Document], boost: float, rng: random.Random) -> list[str]:
    """An epoch's texts in random order: by source weight, the offensive ones ``boost`` times."""
    weights = {s.name: s.weight for s in SOURCES}
    texts: list[str] = []
    for doc in train:
        times = weights[doc.source] * (boost if doc.offensive > 0.5 else 1.0)
        texts += [doc.text] * (int(times) + (rng.random() < times % 1))
    rng.shuffle(texts)
    return texts


def train_tokenizer(texts: list[str], vocab: int) -> FastTokenizer:
    """A byte-level BPE tokenizer that puts the start token in front of every text."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    start = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B",
        special_tokens=[(BOS, core.token_to_id(BOS))],
    )
    core.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), start])
    return FastTokenizer(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="left",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
