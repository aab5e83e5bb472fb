"""The page in a browser: a photo is dropped, the slider moved, strangers' files are refused. Needs Chromium."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from sam_age.demo.studio import Limits, Studio
from sam_age.pipeline import AgingPipeline
from tests.demo.test_studio import HOSTILE, png
from tests.standin import Mirror

pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser_needed = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


class Brightness(torch.nn.Module):
    """Reads an age off the mean level: 0 for black, 100 for white."""

    def forward(self, faces: torch.Tensor) -> torch.Tensor:
        return (faces.mean((1, 2, 3)) + 1) * 50


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    from sam_age.demo.serve import running

    samples = [Image.new("RGB", (256, 256), colour) for colour in ("#804020", "#205080")]
    pipeline = AgingPipeline(Mirror(shift=0.5), age_net=Brightness())
    with running(Studio(pipeline, samples, Limits(megabytes=1, megapixels=4)), "A test.") as address:
        folder = Path(os.environ["GRADIO_TEMP_DIR"])
        yield address.rstrip("/")
    assert not folder.exists()  # what was uploaded went with the page


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address: str) -> Iterator:
    """A visitor's page, for whom nothing may come from elsewhere."""
    page, elsewhere = browser.new_page(viewport={"width": 1280, "height": 1000}), []
    page.set_default_timeout(60_000)
    page.on("request", lambda r: r.url.startswith((address, "data:", "blob:")) or elsewhere.append(r.url))
    page.goto(address)
    page.wait_for_selector("#sa-age input[type=range]")
    yield page
    page.close()
    assert elsewhere == []


@pytest.fixture
def seated(page):
    """With an uploaded photo, aged."""
    drop(page, "astronaut.png", png(Image.fromarray(data.astronaut())))
    page.wait_for_selector("#sa-aged[alt*='age of 70']")
    return page


def aged(page, picture: str = "#sa-aged") -> np.ndarray:
    """The picture that is shown; or another of the page."""
    source = page.get_attribute(picture, "src")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGB"), int)


def changed_from(page, source: str) -> None:
    """Wait for another picture than one that was read before the change was asked for."""
    # for a moment there is none
    other = "source => (document.getElementById('sa-aged') || {src: source}).src != source"
    page.wait_for_function(other, arg=source)


def drop(page, name: str, content: bytes) -> None:
    page.set_input_files("#sa-upload input[type=file]", {"name": name, "mimeType": "image/png", "buffer": content})


def uploads() -> list[Path]:
    return [path for path in Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*") if path.is_file()]


@browser_needed
def test_upload_slide_and_look(seated, tmp_path) -> None:
    page = seated
    assert "One face found" in page.inner_text("#sa-found")
    at_70 = aged(page)

    slider = page.locator("#sa-age input[type=range]")
    slider.focus()
    for _ in range(5):  # by keyboard
        page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#sa-aged[alt*='age of 65']")
    darker = at_70 - aged(page)  # the stand-in brightens by half a level a year
    assert np.median(darker) == pytest.approx(2.5, abs=0.5)
    assert "looks" in page.inner_text("#sa-pair")

    page.wait_for_selector("#sa-sheet", state="attached")  # all ages were drawn
    assert page.locator("#sa-ages li img").count() == 11
    page.click("#sa-ages [data-pick='20']")
    page.wait_for_selector("#sa-aged[alt*='age of 20']")
    with page.expect_download() as download:
        page.click("#sa-pair [data-save]")
    assert download.value.suggested_filename == "age_020.png"
    assert (np.asarray(Image.open(download.value.path()), int) == aged(page)).all()

    page.screenshot(path=tmp_path / "page.png")  # it is a page, not a blank
    assert len(np.unique(np.asarray(Image.open(tmp_path / "page.png")))) > 100
    unnamed = page.evaluate("""[...document.querySelectorAll('main button, .gradio-container button')].filter(
        b => b.offsetParent && !(b.innerText.trim() || b.getAttribute('aria-label') || b.title)).length""")
    assert unnamed == 0
    assert page.evaluate("[...document.images].every(image => image.hasAttribute('alt'))")
    assert uploads() == []


@browser_needed
def test_another_face_of_the_photo_is_chosen(page) -> None:
    astronaut = Image.fromarray(data.astronaut())
    both = Image.new("RGB", (924, 512))
    both.paste(astronaut, (0, 0))
    both.paste(astronaut.resize((400, 400)).transpose(Image.Transpose.FLIP_LEFT_RIGHT), (512, 50))
    page.click("#sa-people [data-pick='0']")
    page.wait_for_selector("#sa-aged")
    portrait = page.get_attribute("#sa-aged", "src")
    drop(page, "two.png", png(both))
    page.locator("#sa-people [aria-pressed]").wait_for(state="detached")  # no portrait is the chosen one any more
    page.locator("#sa-found", has_text="2 faces found; number 1 is taken").wait_for()
    changed_from(page, portrait)
    came = "#sa-pair figure:first-child img"  # the faces as they came: what ageing makes of photographs may be anything
    first, shown = aged(page, came), page.get_attribute("#sa-aged", "src")
    page.locator("#sa-faces input").nth(1).check()
    page.locator("#sa-found", has_text="number 2 is taken").wait_for()
    changed_from(page, shown)
    second = aged(page, came)
    assert np.corrcoef(second[:, ::-1].ravel(), first.ravel())[0, 1] > 0.9
    assert np.corrcoef(second.ravel(), first.ravel())[0, 1] < 0.9
    assert page.locator("#sa-faces input").nth(1).is_checked()


@browser_needed
def test_film_reference_and_the_photo_itself(seated) -> None:
    page = seated
    page.get_by_role("tab", name="Film").click()
    page.click("#sa-make")
    page.wait_for_selector("#sa-film")
    assert page.evaluate("document.getElementById('sa-film').naturalWidth") == 256

    before, shown = aged(page), page.get_attribute("#sa-aged", "src")
    page.get_by_role("tab", name="Borrow a look").click()
    page.click("#sa-others [data-pick='1']")
    changed_from(page, shown)
    assert (aged(page) != before).any()
    assert page.locator("#sa-others [aria-pressed]").get_attribute("data-pick") == "1"
    page.get_by_role("button", name="Give it back").click()
    page.locator("#sa-others [aria-pressed]").wait_for(state="detached")

    page.get_by_role("tab", name="In the photo").click()
    page.click("#sa-place")
    page.wait_for_selector("#sa-whole")
    assert page.evaluate("document.getElementById('sa-whole').naturalWidth") == 512
    assert uploads() == []


@browser_needed
@pytest.mark.parametrize("kind", ["text", "bomb"])
def test_a_hostile_upload_named_png_is_refused_with_a_message(page, kind: str) -> None:
    given, message = HOSTILE[kind]
    drop(page, "portrait.png", given)
    page.locator("#sa-notice [role=alert]", has_text=message).wait_for()
    assert uploads() == []
    page.click("[data-pick='0']")  # the page goes on
    page.locator("#sa-notice [role=alert]").wait_for(state="detached")
    assert page.locator("#sa-people [aria-pressed]").get_attribute("data-pick") == "0"


@browser_needed
@pytest.mark.parametrize(("name", "kind", "message"), [("photo.png", "large", "size"), ("a.svg", "svg", "type")])
def test_a_file_too_large_or_of_another_type_is_refused_with_a_message(
    page, name: str, kind: str, message: str
) -> None:
    drop(page, name, HOSTILE[kind][0])
    page.locator("[data-testid=toast-body]", has_text=message).first.wait_for()
    assert uploads() == []


@browser_needed
def test_another_visitor_sees_nothing_of_the_first(seated, browser) -> None:
    assert seated.locator("#sa-aged").count() == 1
    other = browser.new_page()
    other.goto(seated.url)
    other.locator("#sa-age input[type=range]").press("ArrowLeft")
    other.wait_for_timeout(500)
    assert "Whose face?" in other.inner_text("#sa-pair")
    assert other.locator("#sa-aged, #sa-found img").count() == 0
    other.close()


# ---- past the page: what a program may send --------------------------------------------------------------------------


def call(address: str, path: str, body: dict | None = None, **headers: str) -> tuple[int, str, dict]:
    given = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, given, {"content-type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode(errors="replace"), dict(answer.headers)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace"), dict(error.headers)


def test_no_file_of_this_machine_is_given_out_or_taken_by_its_path_and_no_address_fetched(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = Path(__file__).resolve()
    for where in (
        f"/gradio_api/file={secret}",
        f"/file={secret}",
        f"/gradio_api/file={os.environ['GRADIO_TEMP_DIR']}/../x",
    ):
        status, body, _ = call(address, where)
        assert status in (403, 404)
        assert "Needs Chromium" not in body

    asked, look_up = [], socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: asked.append(host) or look_up(host, *rest, **more)
    )
    config = json.loads(call(address, "/config")[1])
    number = next(d["id"] for d in config["dependencies"] if any("upload" in target for target in d["targets"]))
    for path in (str(secret), "../../etc/passwd", "https://face.example/a.png"):
        given = {"data": [{"path": path, "meta": {"_type": "gradio.FileData"}}, None], "fn_index": number}
        status, _, _ = call(address, "/gradio_api/queue/join", {**given, "session_hash": "s"})
        assert status == 200
        with urllib.request.urlopen(f"{address}/gradio_api/queue/data?session_hash=s", timeout=20) as events:
            end = next(line for line in map(bytes.decode, events) if "process_completed" in line)
        assert json.loads(end[6:])["success"] is False
    assert "face.example" not in asked


def test_only_this_machine_is_answered_and_browsers_are_told_to_fetch_nothing(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
    status, _, headers = call(address, "/")
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    status, _, _ = call(address, "/", Host="evil.example")  # a name that a stranger points here
    assert status == 400


def test_what_gradio_offers_besides_is_not_there(address: str) -> None:
    before = sorted(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*"))
    for path in ("process_recording", "run-history/connect", "vibe-code", "undo-vibe-edit"):
        for prefix in ("/gradio_api/", "/"):
            status, body, headers = call(address, f"{prefix}{path}", {"video": "x"})
            assert (status, body) == (404, "Not here."), path
            assert headers["x-content-type-options"] == "nosniff"
    for path in ("proxy=https://face.example/a.png", "monitoring/summary", "deep_link?session_hash=s", "runs"):
        assert call(address, f"/gradio_api/{path}")[:2] == (404, "Not here."), path
    assert sorted(Path(os.environ["GRADIO_TEMP_DIR"]).rglob("*")) == before
