"""How long a transformer of 100 million parameters is searched, and in how much memory: BERT-base, two threads.

Its weights are random and so are its inputs, 128 of 128 tokens, as time and memory do not depend on either: what is
found says nothing of accuracy. The search is for half the MACs, from the network to the one delivered; stages are told
apart by the clock. Takes half an hour; `--layers 2` (three minutes) only shows that it still works.
"""

from __future__ import annotations

import argparse
import resource
import time

import record
import torch
from torch import Tensor, nn

import secateur as sc

EXAMPLES, SCORED, TOKENS, TRIALS, THREADS = 128, 32, 128, 60, 2


class Encoder(nn.Module):
    """BERT-base: 12 layers, 768 wide, 12 heads, MLPs of 3,072."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        self.bert = BertModel(BertConfig(num_hidden_layers=layers))

    def forward(self, input_ids: Tensor) -> Tensor:
        """Embeddings [N, 768] of tokens [N, T]."""
        pooled: Tensor = self.bert(input_ids=input_ids).pooler_output
        return pooled


class Clock:
    """When each trial was told."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.told: list[float] = []

    def __call__(self, study: sc.Study, trial: sc.Trial) -> None:
        """As a search calls it."""
        self.told.append(self.seconds)
        print(f"trial {trial.number}: {self.seconds:.0f} s, {peak():.2f} GB", flush=True)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self.began


def peak() -> float:
    """The most memory of this process so far, in GB; all of it, torch and the dense network included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def main() -> None:
    """Search, print the table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12, help="other than 12 writes no result")
    layers = parser.parse_args().layers
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    model = Encoder(layers).eval()
    tokens = torch.randint(model.bert.config.vocab_size, (EXAMPLES + SCORED, TOKENS))
    clock = Clock()
    study = sc.search(
        model,
        tokens[:2],
        evaluate=sc.agreement(model, tokens[EXAMPLES:]),
        calibration=[tokens[:EXAMPLES]],
        budget=sc.Budget(macs=0.5),
        trials=TRIALS,
        on_trial=clock,
    )
    searched = clock.seconds
    small = study.prune(study.best.plan)
    row = {
        "million parameters": sum(x.numel() for x in model.parameters()) / 1e6,
        "and pruned": sum(x.numel() for x in small.parameters()) / 1e6,
        "trials": len(study.trials),
        "seconds to the first trial": clock.told[0],
        "a trial": (clock.told[-1] - clock.told[0]) / (len(clock.told) - 1),
        "for the finalists": searched - clock.told[-1],
        "and the network": clock.seconds - searched,
        "minutes in all": clock.seconds / 60,
        "peak memory, GB": peak(),
    }
    record.show(f"BERT-base searched for half its MACs, {THREADS} threads", [row])
    if layers == 12:
        figures = {"large_minutes": row["minutes in all"], "large_gigabytes": row["peak memory, GB"]}
        place = record.write("large_transformer", figures, [row])
        print(f"written to {place.relative_to(record.HERE.parent)}")


if __name__ == "__main__":
    main()
