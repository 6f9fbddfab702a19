"""Fit the Pixel 1 profile that ships with Secateur to its published per-layer timings, and see how it predicts.

Each kind of layer gets non-negative rates for multiply-adds, and for bytes of its input and its output (see
`secateur.cost.device`); layers that take longer weigh more, as the total is what counts. Fitted on two of the three
networks, the third's total is predicted, for each choice of the third; the form and the weight were chosen, of two
dozen, by the largest of these three errors.

Writes src/secateur/cost/devices/pixel1.json and the result; takes a second.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import Any

import numpy as np
import record
import shared_assets
from scipy.optimize import nnls

PLACE = record.HERE.parent / "src" / "secateur" / "cost" / "devices" / "pixel1.json"
WEIGHT = 0.25
"""Power of a layer's time that its error is multiplied by."""
Rows = dict[str, list[tuple[list[float], float]]]


def main() -> None:
    """Fit, predict, print, write."""
    measured = json.loads((shared_assets.SHARED / "devices" / "pixel1_tflite.json").read_text())
    models = {name: layers(model) for name, model in measured["models"].items()}
    rows = []
    for left_out, own in models.items():
        rates = fitted([found for name, found in models.items() if name != left_out])
        predicted = sum(float(np.dot(rates[kind], facts)) for kind, found in own.items() for facts, _ in found)
        true = float(np.mean(measured["models"][left_out]["total_ms"]))
        rows.append({"left out": left_out, "ms": true, "predicted": predicted, "error": abs(predicted / true - 1)})
    record.show("Pixel 1: fitted on the two other networks", [{**r, "error": f"{r['error']:.2%}"} for r in rows])
    rates = fitted([*models.values()])
    profile = {
        "device": measured["device"],
        "runtime": measured["runtime"],
        "source": f"fitted by benchmarks/pixel1.py to {measured['source']}",
        "kinds": {
            kind: dict(zip(("ms_per_gmac", "ms_per_input_mb", "ms_per_output_mb"), map(float, found), strict=True))
            for kind, found in sorted(rates.items())
        },
    }
    PLACE.write_text(json.dumps(profile, indent=1) + "\n")
    place = record.write("pixel1", {"worst_error": max(row["error"] for row in rows)}, rows)
    print(f"written to {PLACE.relative_to(record.HERE.parent)} and {place.relative_to(record.HERE.parent)}")


def layers(model: dict[str, Any]) -> Rows:
    """By kind of layer: (GMACs, megabytes in, megabytes out), and the mean of the measured milliseconds."""
    found: Rows = defaultdict(list)
    for op in model["ops"]:
        if op["op"] != "conv":
            continue  # pooling and reshape: 0.05 ms in all
        positions, taps = op["out_hw"] ** 2, op["kernel"] ** 2
        weights = op["in_channels"] * op["out_channels"] // op["groups"] * taps
        pixels = (op["out_hw"] * op["stride"]) ** 2
        inputs, outputs = 4e-6 * op["in_channels"] * pixels, 4e-6 * op["out_channels"] * positions
        kind = "depthwise" if op["groups"] > 1 else "conv" if taps > 1 else "pointwise" if positions > 1 else "linear"
        found[kind].append(([weights * positions / 1e9, inputs, outputs], float(np.mean(op["ms"]))))
    return found


def fitted(models: list[Rows]) -> dict[str, Any]:
    """Rates of every kind, by non-negative least squares."""
    rates = {}
    for kind in {kind for model in models for kind in model}:
        rows = [row for model in models for row in model[kind]]
        facts, ms = np.array([facts for facts, _ in rows]), np.array([ms for _, ms in rows])
        rates[kind] = nnls(facts * (ms**WEIGHT)[:, None], ms * ms**WEIGHT)[0]
    return rates


if __name__ == "__main__":
    main()
