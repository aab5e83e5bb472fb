"""Screenshots of sam-demo for docs/demo.md: python tools/demo_screenshots.py

Needs .[dev] and Chromium.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from sam_age.demo.serve import note_of, running
from sam_age.demo.studio import Studio, samples_of
from sam_age.errors import InputError
from sam_age.pipeline import AgingPipeline

OUTPUT = Path(__file__).resolve().parents[1] / "docs" / "img"
SITTER, LENDER = 1, 3  # samples by number


def sit(page: Page, address: str) -> None:
    page.set_default_timeout(120_000)
    page.goto(address)
    page.click(f"[data-pick='{SITTER}']")
    page.wait_for_selector("#sa-sheet", state="attached")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", default="lifespan", help="the model; the package's own")
    parser.add_argument("--samples", help="folder of portraits to pick from; the package's own")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder for the pictures; %(default)s")
    given = parser.parse_args()
    try:
        studio = Studio(AgingPipeline.from_pretrained(given.checkpoint), samples_of(given.samples))
    except InputError as error:
        sys.exit(f"demo_screenshots: {error}")
    given.output.mkdir(parents=True, exist_ok=True)
    take(studio, note_of(given.checkpoint), given.output)


def take(studio: Studio, note: str, output: Path) -> None:
    """The page at work, with a borrowed look, and on a telephone."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    studio.warm_up()
    with running(studio, note) as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        sit(page, address)
        page.screenshot(path=output / "demo_page.png", full_page=True)
        page.get_by_role("tab", name="Borrow a look").click()
        page.click(f"#sa-others [data-pick='{LENDER}']")
        page.locator("#sa-share input[type=range]:enabled").wait_for()
        page.wait_for_timeout(2000)
        page.screenshot(path=output / "demo_look.png", full_page=True)
        phone = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark", device_scale_factor=2)
        sit(phone, address)
        phone.screenshot(path=output / "demo_phone.png", full_page=True)
        browser.close()


if __name__ == "__main__":
    main()
