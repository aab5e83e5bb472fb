"""The results as lines of text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sam_age.evaluation.methods import SAM_ITSELF, WHAT

COLUMNS: dict[str, tuple[str, str]] = {
    "age_mae": ("MAE", ".1f"),
    "age_bias": ("bias", "+.1f"),
    "age_spearman": ("Spearman", ".3f"),
    "identity_cosine": ("identity", ".3f"),
    "verification_rate": ("verified", ".1%"),
    "verification_rate_kin": ("among kin", ".1%"),
    "counterfactual_lpips": ("to truth", ".4f"),
    "counterfactual_lpips_face": ("its face", ".4f"),
    "counterfactual_lpips_alexnet": ("LPIPS", ".4f"),
    "counterfactual_ssim": ("SSIM", ".3f"),
    "counterfactual_psnr": ("PSNR", ".1f"),
    "kid": ("KID", ".3f"),
}
"""Key of a row of results -> its heading and format."""

NAMES = {"age": "ages", "second_age": "second judge", "identity": "identity", "source_age": "ages of the inputs"}


def table(results: Mapping[str, Any]) -> str:
    """All methods in a table, SAM first; SAM per target age and per group; and what cannot be in a table."""
    ages = f"{len(results['target_ages'])} age{'s' if len(results['target_ages']) > 1 else ''}"
    lines = [f"{results['faces']} faces at {ages}"]
    lines += [f"{what}: {results['judged_by'][key]}" for key, what in NAMES.items() if results["judged_by"].get(key)]
    lines += ["", *_grid(rows_of_methods(results), "")]
    lines += ["", *_grid({**results["per_target_age"], "all": results}, "target", read=True)]
    for kind, groups in (results["per_group"] or {}).items():
        lines += ["", *_grid(groups, kind.replace("_", " "))]
    lines += ["", *sentences(results)]
    if results["losses"]:
        lines += ["", "loss term                  mean"]
        lines += [f"{name:24} {value:8.4f}" for name, value in results["losses"].items()]
    return "\n".join(lines)


def rows_of_methods(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What to call a method -> its pooled scores."""
    every = {SAM_ITSELF: results, **results["baselines"]}
    return {what: every[name] for name, what in WHAT.items() if name in every}


def sentences(results: Mapping[str, Any]) -> list[str]:
    """The comparisons, and what is measured beside the ageing."""
    lines = []
    if results["counterfactual_closed"] is not None:
        lines.append(f"Of the way from the input to the ceiling SAM goes {results['counterfactual_closed']:.0f} %.")
    below = {name: value for name, value in (results["counterfactual_below"] or {}).items() if value is not None}
    if below:
        lines.append("To the truth SAM is " + " and ".join(_nearer(name, value) for name, value in below.items()) + ".")
    if second := results.get("second_judge"):
        keys = ("age_mae", "age_bias", "age_spearman")
        truth = results["baselines"].get("truth", {}).get("second_judge")
        beside = f"; on the true portraits {_scores(truth, keys)}" if truth else ""
        lines.append(f"Second judge: {_scores(second, keys)}{beside}.")
    if same := results["reconstruction"]:
        lines.append(f"At its own age: SSIM {same['ssim']:.3f}, PSNR {same['psnr']:.1f} dB{_lpips(same)}.")
    if back := results["cycle"]:
        lines.append(f"There and back: SSIM {back['ssim']:.3f}, squared error {back['l2']:.4f}{_lpips(back)}.")
    return lines


def _nearer(name: str, percent: float) -> str:
    side = "nearer" if percent >= 0 else "FARTHER"
    return f"{abs(percent):.0f} % {side} than the {WHAT[name]}"


def _lpips(scores: Mapping[str, Any]) -> str:
    return f", LPIPS-style {scores['lpips']:.4f}" if scores.get("lpips") is not None else ""


def _scores(row: Mapping[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(f"{COLUMNS[key][0]} {cell(row, key)}" for key in keys)


def cell(row: Mapping[str, Any], key: str) -> str:
    """A score as it is shown; a dash where there is none."""
    value = row.get(key)
    return "-" if value is None else f"{value:{COLUMNS[key][1]}}"


def shown(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The columns in which any row has something."""
    return [key for key in COLUMNS if any(row.get(key) is not None for row in rows.values())]


def _grid(rows: Mapping[str, Mapping[str, Any]], corner: str, *, read: bool = False) -> list[str]:
    keys = shown(rows)
    cells = [[corner, *(["read"] if read else []), *(COLUMNS[key][0] for key in keys)]]
    for label, row in rows.items():
        age = row.get("age_mean")
        cells.append([label, *(["-" if age is None else f"{age:.1f}"] if read else []), *(cell(row, k) for k in keys)])
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    aligned = [
        [
            text.rjust(width) if i else text.ljust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in cells
    ]
    return ["  ".join(line).rstrip() for line in aligned]
