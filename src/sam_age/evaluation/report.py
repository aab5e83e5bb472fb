"""The results as one HTML file that needs nothing else: figures, tables, curves, faces, and what it all means."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from sam_age.data.storing import encode
from sam_age.evaluation.charts import Chart
from sam_age.evaluation.examples import Example
from sam_age.evaluation.methods import SAM_ITSELF, WHAT
from sam_age.evaluation.table import COLUMNS, cell, shown

STYLE = Path(__file__).with_name("report.css")
QUALITY = 82  # of the WebP pictures
MADE = (SAM_ITSELF, "linear", "mean_shift")  # the methods among which the best figure is set in bold
LOWER, HIGHER = "lower is better", "higher is better"

MEANING = {
    "age_mae": ("Mean absolute difference of the age read from the age asked for, years", LOWER),
    "age_bias": ("Age read minus age asked for, years", "0 is best"),
    "age_spearman": ("Rank correlation of ages read and asked for", HIGHER),
    "identity_cosine": ("Cosine of the identity judge's embeddings of output and input", HIGHER),
    "verification_rate": (
        "Share of outputs accepted as the input's person, at the threshold that 0.1 % of pairs of different people "
        "in the data reach", HIGHER,
    ),
    "verification_rate_kin": ("The same, among people of the same sex and ancestry: harder", HIGHER),
    "counterfactual_lpips": (
        "Distance to the true portrait of that person at that age: difference of the judges' features, as LPIPS", LOWER,
    ),
    "counterfactual_lpips_face": ("The same, of the face region alone", LOWER),
    "counterfactual_lpips_alexnet": ("The published LPIPS to the true portrait", LOWER),
    "counterfactual_ssim": ("Structural similarity with the true portrait", HIGHER),
    "counterfactual_psnr": ("Signal to noise against the true portrait, dB", HIGHER),
    "kid": ("Kernel distance of outputs at an age to pictures that they should look like, mean over ages", LOWER),
}  # fmt: skip


def report(results: Mapping[str, Any], examples: Sequence[Example] = ()) -> str:
    """A page for a browser.

    Args:
        results: the content of metrics.json.
        examples: faces to show.
    """
    parts = [
        _head(results),
        _figures(results),
        _methods(results),
        _curves(results),
        _groups(results),
        _faces(examples, results["target_ages"], results["counterfactual_lpips"] is not None),
        _explanation(results),
    ]
    title = escape(f"sam-eval: {results['checkpoint']}")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE.read_text(encoding='utf-8')}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _every(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Method -> its scores, in the order of tables."""
    every = {SAM_ITSELF: results, **results["baselines"]}
    return {name: every[name] for name in WHAT if name in every}


# ---- the top -------------------------------------------------------------------------------------------


def _head(results: Mapping[str, Any]) -> str:
    ages = [f"{age:g}" for age in results["target_ages"]]
    asked = f"{len(ages)} ages from {ages[0]} to {ages[-1]} years" if len(ages) > 1 else f"{ages[0]} years"
    truth = ", and held against the true portrait of that person at that age" if _has_truth(results) else ""
    return (
        f"<h1>Ageing by {escape(str(results['checkpoint']))}</h1>"
        f'<p class="lead">{results["faces"]:,} faces, each aged to {asked}; what came out was judged by networks '
        f"{'of its own training' if _own(results) else 'that had no part in its training'}{truth}.</p>"
    )


def _has_truth(results: Mapping[str, Any]) -> bool:
    return results["counterfactual_lpips"] is not None


def _own(results: Mapping[str, Any]) -> bool:
    return "own network" in (results["judged_by"]["age"] or "")


def _figures(results: Mapping[str, Any]) -> str:
    judge = results["baselines"].get("truth", {}).get("age_mae")
    cards = [
        _card(
            "The age asked for is met within",
            f"{results['age_mae']:.1f} <small>years</small>",
            f"on average, {_bias(results['age_bias'])}"
            + _if(results.get("age_spearman"), "; rank correlation {:.3f}")
            + _if(judge, "; the judge itself errs by {:.1f} on true portraits"),
        )
    ]
    if (rate := results["verification_rate"]) is not None:
        honest = results["baselines"].get("truth", {}).get("verification_rate")
        more = "recognised at 0.1 % false matches" + _if(honest, "; of true portraits at those ages, {:.1%} are")
        cards.append(_card("Still the same person", f"{100 * rate:.1f} <small>%</small>", more))
    elif results["identity_cosine"] is not None:
        cards.append(_card("Likeness to the input", f"{results['identity_cosine']:.2f}", "cosine of embeddings"))
    below = {name: value for name, value in (results["counterfactual_below"] or {}).items() if value is not None}
    if below:
        nearest = min(below, key=lambda name: below[name])
        others = [
            f"{_signed(value)} than the {WHAT[name]}" for name, value in below.items() if name != nearest
        ]  # fmt: skip
        value = below[nearest]
        what = f"{'Nearer to' if value >= 0 else 'Farther from'} the truth than the {WHAT[nearest]} by"
        cards.append(_card(what, f"{abs(value):.0f} <small>%</small>", "; ".join(others)))
    if (closed := results["counterfactual_closed"]) is not None:
        more = "from the input as it is to the true portrait's inversion, the best that encoder and generator could do"
        cards.append(_card("Of the way to the ceiling", f"{closed:.0f} <small>%</small>", more))
    if second := results.get("second_judge"):
        name = escape(str(results["judged_by"]["second_age"]))
        honest = (results["baselines"].get("truth", {}).get("second_judge") or {}).get("age_mae")
        more = f"{_bias(second['age_bias'])}, by {name}, which knows photographs alone"
        more += _if(honest, " and errs by {:.1f} on true portraits")
        cards.append(_card("A second judge of age finds", f"{second['age_mae']:.1f} <small>years off</small>", more))
    return f'<div class="figures">{"".join(cards)}</div>'


def _card(what: str, figure: str, more: str) -> str:
    return f'<div class="card figure"><div class="what">{what}</div><b>{figure}</b><div class="more">{more}</div></div>'


def _bias(years: float) -> str:
    return f"{abs(years):.1f} years too {'old' if years >= 0 else 'young'} in the mean"


def _signed(percent: float) -> str:
    return f"{abs(percent):.0f} % {'nearer' if percent >= 0 else 'farther'}"


def _if(value: float | None, text: str) -> str:
    return "" if value is None else text.format(value)


# ---- tables --------------------------------------------------------------------------------------------


def _methods(results: Mapping[str, Any]) -> str:
    every = _every(results)
    keys = shown(every)
    best = {key: _best({name: every[name] for name in MADE if name in every}, key) for key in keys}
    rows = ""
    for name, row in every.items():
        cells = "".join(f"<td{' class=best' if name == best[key] else ''}>{cell(row, key)}</td>" for key in keys)
        rows += f'<tr class="{name}"><th>{_swatch(name)}{WHAT[name]}</th>{cells}</tr>'
    apart = {"input": "the input", "ceiling": "the ceiling", "truth": "the true portrait"}
    there = [what for name, what in apart.items() if name in every]
    bold = "In bold: the best of those that make a picture for the age asked. " if any(best.values()) else ""
    return (
        "<h2>Beside other ways</h2>"
        f'<p class="soft">All from the same pictures. {bold}To compare with: {", ".join(there)}.</p>'
        f'<div class="card scroll"><table><thead><tr><th></th>{_headings(keys)}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _best(rows: Mapping[str, Mapping[str, Any]], key: str) -> str | None:
    known = {name: row[key] for name, row in rows.items() if row.get(key) is not None}
    if len(known) < 2:
        return None
    if key == "age_bias":
        return min(known, key=lambda name: abs(known[name]))
    return (min if MEANING[key][1] == LOWER else max)(known, key=lambda name: known[name])


def _headings(keys: Sequence[str]) -> str:
    arrows = {LOWER: "&#8595;", HIGHER: "&#8593;"}
    return "".join(
        f'<th><abbr title="{escape(". ".join(MEANING[key]))}">{COLUMNS[key][0]}&nbsp;{arrows.get(MEANING[key][1], "")}'
        "</abbr></th>"
        for key in keys
    )


def _swatch(name: str) -> str:
    return f'<span class="swatch {name}"></span>'


def _groups(results: Mapping[str, Any]) -> str:
    kinds = results["per_group"]
    if not kinds:
        return ""
    rows_by_kind = {kind: {"everybody": results} | groups for kind, groups in kinds.items()}
    keys = [key for key in shown({str(i): row for i, row in enumerate(_flat(rows_by_kind))}) if key != "kid"]
    body = _row("everybody", results, keys, "sam")
    for kind, groups in kinds.items():
        body += f'<tr class="kind"><th colspan="{len(keys) + 2}">{_title(kind)}</th></tr>'
        body += "".join(_row(group, row, keys) for group, row in groups.items())
    ages = "".join(_row(f"{age} years", row, [*keys, "kid"]) for age, row in results["per_target_age"].items())
    return (
        '<h2>For whom</h2><p class="soft">SAM alone, by who is in the picture.</p>'
        f'<div class="card scroll"><table><thead><tr><th></th><th>outputs</th>{_headings(keys)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
        "<details><summary>and by target age</summary>"
        f'<div class="card scroll"><table><thead><tr><th></th><th>outputs</th>{_headings([*keys, "kid"])}</tr></thead>'
        f"<tbody>{ages}</tbody></table></div></details>"
    )


def _flat(kinds: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
    return [row for groups in kinds.values() for row in groups.values()]


def _row(label: str, row: Mapping[str, Any], keys: Sequence[str], style: str = "") -> str:
    cells = "".join(f"<td>{cell(row, key)}</td>" for key in keys)
    return f'<tr class="{style}"><th>{escape(label)}</th><td>{row["outputs"]:,}</td>{cells}</tr>'


def _title(kind: str) -> str:
    return {"source_age": "age of the input", "skin_tone": "skin tone"}.get(kind, kind)


# ---- curves --------------------------------------------------------------------------------------------

CURVES = {
    "age_mean": ("Age read, by age asked for", "Dotted: as asked. Shaded: 80 % of SAM's outputs.", "years", 1),
    "age_mae": ("Age error", "Mean absolute difference of the age read.", "years", 1),
    "identity_cosine": ("Identity", "Cosine to the input.", "cosine", 3),
    "counterfactual_lpips": ("Distance to the true portrait", "LPIPS-style, whole picture.", "distance", 4),
    "kid": ("Realism", "Kernel distance to pictures that outputs should look like.", "KID", 4),
    "verification_rate": ("Recognised", "Share at 0.1 % false matches.", "share", 3),
}  # fmt: skip
"""Key -> heading, explanation, unit, digits."""

LEFT_OUT = {"age_mean": {"input"}, "identity_cosine": {"input"}, "verification_rate": {"input"}}
"""Curves that would say nothing: the input is its own person."""


def _curves(results: Mapping[str, Any]) -> str:
    ages = results["target_ages"]
    if len(ages) < 2:
        return ""
    every = _every(results)
    cards = ""
    for key, (heading, explanation, unit, digits) in CURVES.items():
        lines = {
            name: [row["per_target_age"][f"{age:g}"].get(key) for age in ages]
            for name, row in every.items()
            if name not in LEFT_OUT.get(key, ())
        }
        lines = {name: line for name, line in lines.items() if any(value is not None for value in line)}
        if not lines:
            continue
        band = None
        if key == "age_mean":
            low, high = ([row.get(k) for row in results["per_target_age"].values()] for k in ("age_p10", "age_p90"))
            band = (low, high)
        chart = Chart(ages, lines, unit, WHAT, diagonal=key == "age_mean", band=band, digits=digits)
        cards += f'<div class="card chart"><h3>{heading}</h3><p class="soft">{explanation}</p>{chart.svg()}</div>'
    legend = "".join(f"<span>{_swatch(name)}{WHAT[name]}</span>" for name in every)
    return f'<h2>By target age</h2><div class="legend">{legend}</div><div class="charts">{cards}</div>'


# ---- faces ---------------------------------------------------------------------------------------------


SHORT = {"sam": "SAM", "truth": "the truth", "ceiling": "ceiling", "linear": "linear", "mean_shift": "mean shift"}
"""Method -> what to call it beside a row of pictures."""


def _faces(examples: Sequence[Example], ages: Sequence[float], paired: bool) -> str:
    if not examples:
        return ""
    by = "the mean distance to the true portraits" if paired else "the mean error of the ages read"
    cards = "".join(_example(example, ages, paired) for example in examples)
    return (
        f'<h2>Faces</h2><p class="soft">Best, median and worst of all inputs by {by}, not picked by anybody.</p>{cards}'
    )


def _example(example: Example, ages: Sequence[float], paired: bool) -> str:
    known = "" if math.isnan(example.age) else f", {example.age:g} years old"
    error = f"mean distance {example.error:.4f}" if paired else f"mean age error {example.error:.1f} years"
    columns = f"grid-template-columns: minmax(78px, 1fr) 74px repeat({len(ages)}, minmax(60px, 1fr))"
    cells = '<span class="age">input</span><span></span>'
    cells += "".join(f'<span class="age">{age:g}</span>' for age in ages)
    for number, (name, strip) in enumerate(example.rows.items()):
        given = f'<span class="given">{_picture(example.face, "the input")}</span>' if number == 0 else "<span></span>"
        cells += given + f'<span class="row">{SHORT[name]}</span>'
        for age, image in zip(ages, strip, strict=True):
            last = " last" if age == ages[-1] else ""
            inside = _picture(image, f"{WHAT[name]} at {age:g}") if image is not None else '<div class="none"></div>'
            cells += f'<span class="cell{last}">{inside}</span>'
    return (
        f'<div class="card example"><h3>{example.kind.capitalize()}<span>: input{known}; {error}</span></h3>'
        f'<div class="scroll-faces"><div class="faces" style="{columns}">{cells}</div></div></div>'
    )


def _picture(image: Image.Image, alt: str) -> str:
    data = base64.b64encode(encode(image, "webp", QUALITY)).decode()
    return f'<img alt="{escape(alt)}" src="data:image/webp;base64,{data}">'


# ---- what it means -------------------------------------------------------------------------------------


def _explanation(results: Mapping[str, Any]) -> str:
    judges = {
        "ages": results["judged_by"]["age"],
        "ages, again": results["judged_by"]["second_age"],
        "identity": results["judged_by"]["identity"],
        "LPIPS-style distance": results["judged_by"]["lpips"],
        "realism": results["judged_by"]["kid"],
        "ages of the inputs, for the baselines": results["judged_by"]["source_age"],
    }
    networks = "; ".join(f"{what}: {escape(who)}" for what, who in judges.items() if who)
    same, back = results["reconstruction"], results["cycle"]
    baselines, thresholds = results["baselines"], results["verification_thresholds"]
    own = " Those of the losses were trained against: such scores flatter." if _own(results) else ""
    terms = {"The judges": f"{networks}.{own}"}
    if "linear" in baselines:
        terms["Baselines"] = (
            "Linear direction: a step along the normal of a ridge regression of age on inversion codes. Mean code "
            "shift: plus the mean code at the target age, minus that at the input's. Both, like SAM, know of an input "
            "only its picture; its age is read off it."
        )
    if "ceiling" in baselines:
        terms["Ceiling"] = "The true portrait, inverted by the same encoder and drawn by the same generator."
    if results["verification_rate"] is not None:
        terms["Recognised"] = (
            "As the input's person, at the cosine that one in a thousand pairs of different people among the data's "
            f"own portraits reaches ({thresholds['verification_rate']:.3f})."
            + (" Among kin: of the same sex and ancestry." if results.get("verification_rate_kin") is not None else "")
            + " The true portraits' rate is what honest ageing scores; the input itself is not counted there."
        )
    if results["kid"] is not None:
        pictures = "true portraits of the age asked for" if _has_truth(results) else "the inputs"
        terms["Realism"] = f"Kernel distance between features of the outputs and of {pictures}; 0 for a perfect match."
    if same:
        terms["At its own age"] = f"SSIM {same['ssim']:.3f}, PSNR {same['psnr']:.1f} dB{_distance(same)}, to the input."
    if back:
        terms["There and back"] = (
            f"SSIM {back['ssim']:.3f}, squared error {back['l2']:.4f}{_distance(back)}, to the input."
        )
    listed = "".join(f"<dt>{what}</dt><dd>{text}</dd>" for what, text in terms.items())
    rate = f"{results['outputs']:,} outputs and all that they are compared with in {results['seconds']:,.0f} seconds"
    return (
        f"<h2>What was measured</h2><dl>{listed}</dl><footer>{rate} ({escape(results['device'])}). Every figure, and "
        "more, is in <code>metrics.json</code> beside this page; the definitions are in "
        "<code>docs/evaluation.md</code>.</footer>"
    )  # fmt: skip


def _distance(scores: Mapping[str, Any]) -> str:
    return _if(scores.get("lpips"), ", LPIPS-style {:.4f}")
