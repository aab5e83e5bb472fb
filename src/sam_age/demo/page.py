"""The page: what stands where, and what happens when it is touched."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image
from torch import Tensor

from sam_age.animation import ANCHORS
from sam_age.demo import view
from sam_age.demo.studio import SUFFIXES, SWIFT, Look, Sitting, Studio, contact_sheet
from sam_age.errors import InputError

START_AGE = 70
FORGET_AFTER = 1800  # seconds without a visitor's doing anything
_ACCENT = gr.themes.Color(
    "#fdf3ee", "#fbe3d7", "#f6c3ad", "#ef9d7b", "#e57a4f", "#c8502d", "#b5451f", "#94371a", "#762d18", "#5f2615",
    "#33120a",
)  # fmt: skip
# No web fonts: Gradio's own themes would fetch theirs from Google.
THEME = gr.themes.Base(
    primary_hue=_ACCENT, neutral_hue="stone", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
).set(block_border_width="1px", block_shadow="none", button_primary_background_fill="*primary_600")


@dataclass(frozen=True)
class Borrowed:
    """The face whose look is borrowed."""

    face: Image.Image
    code: Tensor


def build(studio: Studio, note: str) -> gr.Blocks:
    """The page around a studio. note: a sentence on what the model knows."""
    with gr.Blocks(
        title="One face, every age", analytics_enabled=False, delete_cache=(60, 300), fill_width=True
    ) as page:
        _Page(studio, note)
    return page


class _Page:
    """Components as attributes; what they do as methods."""

    def __init__(self, studio: Studio, note: str) -> None:
        self.studio = studio
        self.sitting = gr.State(None, time_to_live=FORGET_AFTER)
        self.borrowed = gr.State(None, time_to_live=FORGET_AFTER)
        gr.HTML(view.header(note))
        with gr.Row(elem_id="sa-top"):
            with gr.Column(scale=3, min_width=280):
                self._whose()
            with gr.Column(scale=7, min_width=300):
                self._at_which_age()
                self._more()  # here: a photo of many faces makes the other column long
        self._connect()

    # ---- what stands where -------------------------------------------------------------------------------------------

    def _whose(self) -> None:
        limits = self.studio.limits
        _title("A photo")
        self.upload = _drop(f"A JPEG, PNG or WebP, up to {limits.megabytes:g} MB", "sa-upload")
        self.notice = gr.HTML(elem_id="sa-notice", elem_classes="sa-maybe")
        self.photo = gr.HTML(elem_id="sa-found", elem_classes="sa-maybe")
        self.faces = gr.Radio([], label="Which face", visible=False, elem_id="sa-faces")
        if self.studio.samples:
            _title("Or a portrait of nobody")
        self.samples = gr.HTML(
            view.samples(self.studio.samples, "Portrait"), js_on_load=view.CLICKS,
            visible=bool(self.studio.samples), elem_id="sa-people",
        )  # fmt: skip

    def _at_which_age(self) -> None:
        self.pair = gr.HTML(view.pair(None, None), js_on_load=view.CLICKS, elem_id="sa-pair")
        self.age = gr.Slider(0, 100, START_AGE, step=1, label="Age, years", elem_id="sa-age")
        with gr.Row():
            self.amount = gr.Slider(
                0, 100, 100, step=1, label="Identity dial, %", elem_id="sa-dial",
                info="0: as they are; 100: all of the change",
            )  # fmt: skip
            self.share = gr.Slider(
                0, 100, 60, step=1, label="Borrowed look, %", elem_id="sa-share",
                info="Of a face that is picked below", interactive=False,
            )  # fmt: skip

    def _more(self) -> None:
        with gr.Tabs():
            with gr.Tab("All ages"):
                self.strip = gr.HTML(view.strip([], len(ANCHORS)), js_on_load=view.CLICKS, elem_id="sa-ages")
                self.again = gr.Button(
                    "Draw all ages with these settings", size="sm", elem_id="sa-again", elem_classes="sa-small"
                )
            with gr.Tab("Film"):
                self.kind = gr.Radio([("WebP", "webp"), ("GIF", "gif")], value="webp", label="Kind of file")
                self.make = gr.Button("Make the film", variant="primary", elem_id="sa-make", elem_classes="sa-small")
                self.film = gr.HTML(js_on_load=view.CLICKS, elem_id="sa-filmed", elem_classes="sa-maybe")
            with gr.Tab("Borrow a look"), gr.Row():
                with gr.Column(scale=3, min_width=280):
                    self.other = _drop("Another face", "sa-other")
                    self.others = gr.HTML(
                        view.samples(self.studio.samples, "Look of portrait"), js_on_load=view.CLICKS,
                        visible=bool(self.studio.samples), elem_id="sa-others",
                    )  # fmt: skip
                with gr.Column(scale=7, min_width=280):
                    self.reference = gr.HTML(view.reference(None))
                    self.give_back = gr.Button("Give it back", size="sm", visible=False, elem_classes="sa-small")
            with gr.Tab("In the photo"):
                self.place = gr.Button(
                    "Put the face back into the photo",
                    variant="primary",
                    elem_id="sa-place",
                    elem_classes="sa-small",
                    interactive=False,
                )
                self.whole = gr.HTML(js_on_load=view.CLICKS, elem_id="sa-placed", elem_classes="sa-maybe")

    # ---- what happens ------------------------------------------------------------------------------------------------

    def _connect(self) -> None:
        settings = [self.sitting, self.age, self.amount, self.borrowed, self.share]
        seated = [self.sitting, self.notice, self.photo, self.faces, self.place, self.film, self.whole]
        quick = {"concurrency_id": "quick", "concurrency_limit": 1, "api_visibility": "private"}
        long = {"concurrency_id": "long", "concurrency_limit": 1, "api_visibility": "private"}
        still = {"show_progress": "hidden"}

        def then_draw(event: Any) -> None:
            event.success(self.draw, settings, self.pair, **quick, **still).success(
                self.draw_strip_if_swift, settings, self.strip, **long, **still
            )

        then_draw(
            self.upload.upload(
                self.open, [self.upload, self.sitting], [self.upload, *seated], **quick,
                show_progress_on=self.pair,
            )
        )  # fmt: skip
        self.upload.upload(None, js=view.unmark("sa-people"), **quick)
        then_draw(self.samples.click(self.pick, self.sitting, seated, **quick, show_progress_on=self.pair))
        then_draw(self.faces.input(self.choose, [self.faces, self.sitting], seated, **quick))
        for slider in (self.age, self.amount, self.share):  # at every step; what is passed meanwhile is left out
            slider.input(self.draw, settings, self.pair, trigger_mode="always_last", **quick, **still)
        self.strip.click(self.turn_to, None, self.age, **quick, **still).success(
            self.draw, settings, self.pair, **quick, **still
        )
        self.again.click(self.draw_strip, settings, self.strip, **long, **still)
        self.make.click(self.make_film, [*settings, self.kind], self.film, **long, **still)
        borrowing = [self.borrowed, self.notice, self.reference, self.share, self.give_back]
        redraw = (self.draw, settings, self.pair)
        for event in (self.other.upload, self.give_back.click):
            event(None, js=view.unmark("sa-others"), **quick)
        self.other.upload(self.borrow, self.other, [self.other, *borrowing], **quick).success(*redraw, **quick, **still)
        self.others.click(self.borrow_sample, None, borrowing, **quick).success(*redraw, **quick, **still)
        self.give_back.click(self.borrow_none, None, borrowing, **quick).success(*redraw, **quick, **still)
        self.place.click(self.put_back, settings, self.whole, **long, show_progress_on=self.whole)

    def open(self, path: str, before: Sitting | None) -> tuple:
        """An upload; its file is deleted whatever it is, and the drop zone is free again."""
        try:
            return None, *self._seated(self.studio.upload(_take(path)))
        except InputError as error:
            return None, *self._refused(error, before)

    def pick(self, before: Sitting | None, event: gr.EventData) -> tuple:
        try:
            return self._seated(self.studio.sample(_number(event)))
        except InputError as error:
            return self._refused(error, before)

    def choose(self, number: int, sitting: Sitting | None) -> tuple:
        if sitting is None:
            return self._refused(InputError("This photo was forgotten after a while: drop it again."), None)
        try:
            chosen, said, photo, _, *rest = self._seated(self.studio.choose(sitting, number))
            return chosen, said, photo, gr.skip(), *rest  # the choice itself is as the visitor left it
        except InputError as error:
            return self._refused(error, sitting)

    def _seated(self, sitting: Sitting) -> tuple:
        count = len(sitting.crops)
        choices = gr.update(
            choices=[(str(n + 1), n) for n in range(count)], value=sitting.chosen, visible=count > 1
        )  # fmt: skip
        place = gr.update(interactive=sitting.quads[sitting.chosen] is not None)
        return sitting, view.notice(), view.photo(sitting), choices, place, "", ""

    def _refused(self, error: InputError, before: Sitting | None) -> tuple:
        return before, view.notice(str(error)), *[gr.skip()] * 5

    def draw(
        self, sitting: Sitting | None, age: float, amount: float, borrowed: Borrowed | None, share: float
    ) -> str:  # fmt: skip
        """The slider's answer."""
        if sitting is None:
            return view.pair(None, None)
        age = _between(age, START_AGE)
        return view.pair(sitting, (age, *self.studio.draw(sitting, age, _look(amount, borrowed, share))))

    def draw_strip_if_swift(self, *settings: Any) -> Iterator[str]:
        """All ages at once only where that takes seconds; else when asked for."""
        if self.studio.seconds <= SWIFT:
            yield from self.draw_strip(*settings)
        else:
            yield view.strip([], len(ANCHORS))

    def draw_strip(
        self, sitting: Sitting | None, _age: float, amount: float, borrowed: Borrowed | None, share: float
    ) -> Iterator[str]:
        if sitting is None:
            yield view.strip([], len(ANCHORS))
            return
        drawn = []
        for cell in self.studio.strip(sitting, _look(amount, borrowed, share)):
            drawn.append(cell)
            if len(drawn) < len(ANCHORS):
                yield view.strip(drawn, len(ANCHORS))
        yield view.strip(drawn, len(ANCHORS), contact_sheet(drawn))

    def turn_to(self, event: gr.EventData) -> float:
        return _between(_number(event), START_AGE)

    def make_film(
        self,
        sitting: Sitting | None,
        _age: float,
        amount: float,
        borrowed: Borrowed | None,
        share: float,
        kind: str,
    ) -> Iterator[str]:
        if sitting is None:
            yield '<p class="sa-hint">A film needs a face: drop a photo or pick a portrait first.</p>'
            return
        for made in self.studio.film(sitting, _look(amount, borrowed, share), kind):
            if isinstance(made, bytes):
                yield view.film(made, kind)
            else:
                yield view.progress(made, "drawing" if made < 1 else "writing")

    def borrow(self, path: str) -> tuple:
        try:
            return None, *self._lent(Borrowed(*self.studio.reference(_take(path))))
        except InputError as error:
            return None, *self._not_lent(error)

    def borrow_sample(self, event: gr.EventData) -> tuple:
        try:
            return self._lent(Borrowed(*self.studio.reference(_number(event))))
        except InputError as error:
            return self._not_lent(error)

    def borrow_none(self) -> tuple:
        return self._lent(None)

    def _lent(self, borrowed: Borrowed | None) -> tuple:
        there = borrowed is not None
        face = borrowed.face if there else None
        return borrowed, view.notice(), view.reference(face), gr.update(interactive=there), gr.update(visible=there)

    def _not_lent(self, error: InputError) -> tuple:
        return gr.skip(), view.notice(str(error)), gr.skip(), gr.skip(), gr.skip()

    def put_back(
        self, sitting: Sitting | None, age: float, amount: float, borrowed: Borrowed | None, share: float
    ) -> str:  # fmt: skip
        if sitting is None:
            return ""
        age = _between(age, START_AGE)
        return view.in_photo(self.studio.in_photo(sitting, age, _look(amount, borrowed, share)), age)


def _title(text: str) -> None:
    gr.HTML(f"<h2>{text}</h2>", elem_classes="sa-title")


def _drop(label: str, name: str) -> gr.File:
    """Where a photo is dropped: gives the path of what was stored, unread."""
    zone = gr.File(label=label, file_types=list(SUFFIXES), height=150, elem_id=name, elem_classes="sa-drop")
    # Gradio's own leaves an empty file behind with every upload, and the file itself where it refuses the suffix. Not
    # as a subclass, which Gradio would write a .pyi for, beside this file.
    zone.preprocess = lambda payload: getattr(payload, "path", "")
    return zone


def _take(path: str) -> bytes:
    """The content of an uploaded file, which is deleted, and its folder with it.

    Gradio lets through what it has stored itself under its own folder; that is checked again, before a byte is read.
    """
    file = Path(path).resolve()
    home = Path(os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio").resolve()
    if not file.is_relative_to(home) or not file.is_file():
        raise InputError("The upload did not arrive: drop the photo again.")
    try:
        return file.read_bytes()
    finally:
        file.unlink(missing_ok=True)
        if file.parent != home and not any(file.parent.iterdir()):
            file.parent.rmdir()


def _number(event: gr.EventData) -> int:
    value = event._data.get("number") if isinstance(event._data, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def _between(value: Any, otherwise: float) -> float:
    """An age that came from the page, which may send anything."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 100
    return float(value) if good else float(otherwise)


def _look(amount: Any, borrowed: Borrowed | None, share: Any) -> Look:
    return Look(_between(amount, 100) / 100, borrowed.code if borrowed else None, _between(share, 0) / 100)
