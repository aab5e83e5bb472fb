"""Pictures and readings as HTML. Pictures lie in the page itself, as data, so that none is written to a disk."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sam_age.demo.studio import THUMBNAIL, Sitting

Drawn = tuple[float, Image.Image, float | None]
"""An age asked for, the picture, and the age read in it."""

CLICKS = """
element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (!button) return;
  const row = button.closest('.sa-samples');
  if (row) {
    row.querySelectorAll('[aria-pressed]').forEach(other => other.removeAttribute('aria-pressed'));
    button.setAttribute('aria-pressed', 'true');
  }
  if (button.dataset.pick !== undefined) trigger('click', {number: Number(button.dataset.pick)});
  if (button.dataset.save !== undefined) {
    const link = document.createElement('a');
    link.href = document.getElementById(button.dataset.from).src;
    link.download = button.dataset.save;
    link.click();
  }
});
"""
"""What the page's own buttons do: say their number, which is marked among portraits, or save a picture that the page
holds."""


def unmark(element: str) -> str:
    """JavaScript: no portrait in the element of that name is the chosen one any more."""
    chosen = f"document.querySelectorAll('#{element} [aria-pressed]')"
    return f"() => {{ {chosen}.forEach(button => button.removeAttribute('aria-pressed')); }}"


def data_uri(image: Image.Image, kind: str = "auto") -> str:
    """A picture as the address of itself. auto: PNG up to 512 pixels, which loses nothing, WebP above."""
    if kind == "auto":
        kind = "png" if max(image.size) <= 512 else "webp"
    options = {"png": {"compress_level": 3}, "webp": {"quality": 92, "method": 2}, "jpeg": {"quality": 92}}[kind]
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return raw_uri(file.getvalue(), kind)


def raw_uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def thumbnail(image: Image.Image, side: int = THUMBNAIL) -> str:
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return data_uri(small, "webp")


def looks(read: float | None) -> str:
    return "" if read is None else f"looks {read:.0f}"


def header(note: str) -> str:
    return f"""<header class="sa-head"><h1>One face, every age</h1>
<p>{escape(note)}</p></header>"""


def notice(message: str = "") -> str:
    """What went wrong, said to screen readers at once."""
    return f'<p class="sa-notice" role="alert">{escape(message)}</p>' if message else ""


def samples(pictures: Sequence[Image.Image], what: str) -> str:
    buttons = "".join(
        f'<button type="button" data-pick="{number}" aria-label="{what} {number + 1}">'
        f'<img src="{thumbnail(picture, 112)}" alt=""></button>'
        for number, picture in enumerate(pictures)
    )
    return f'<div class="sa-samples" role="group" aria-label="{what}s">{buttons}</div>'


def photo(sitting: Sitting | None) -> str:
    """The photo with its faces outlined and numbered, the chosen one in colour."""
    if sitting is None or sitting.quads[0] is None:
        return ""
    picture = sitting.photo.copy()
    picture.thumbnail((640, 640), Image.Resampling.LANCZOS)
    scale = picture.width / sitting.photo.width
    outlined = draw_faces(picture, [quad * scale for quad in sitting.quads], sitting.chosen)
    count = len(sitting.quads)
    found = "One face found" if count == 1 else f"{count} faces found; number {sitting.chosen + 1} is taken"
    return f"""<figure class="sa-photo"><img src="{data_uri(outlined, "webp")}" alt="Your photo. {found}.">
<figcaption>{found}</figcaption></figure>"""


def draw_faces(picture: Image.Image, quads: Sequence[np.ndarray], chosen: int) -> Image.Image:
    """Outlines, drawn at twice the size and reduced, for smooth edges."""
    large = picture.resize((picture.width * 2, picture.height * 2))
    draw = ImageDraw.Draw(large)
    font = ImageFont.load_default(size=30)
    order = sorted(range(len(quads)), key=lambda number: number == chosen)  # the chosen one on top
    for number in order:
        points = [tuple(point * 2) for point in quads[number]]
        colour = "#c8502d" if number == chosen else "#ffffff"
        draw.line([*points, points[0]], fill="#00000080", width=9, joint="curve")
        draw.line([*points, points[0]], fill=colour, width=6, joint="curve")
        if len(quads) > 1:
            x, y = (min(max(value, 24), limit - 24) for value, limit in zip(points[0], large.size, strict=True))
            draw.ellipse((x - 22, y - 22, x + 22, y + 22), fill=colour)
            draw.text((x, y), str(number + 1), fill="white" if number == chosen else "#222222", font=font, anchor="mm")
    return large.resize(picture.size, Image.Resampling.LANCZOS)


def pair(sitting: Sitting | None, drawn: Drawn | None) -> str:
    """The face as it came, and at an age."""
    if sitting is None or drawn is None:
        return """<div class="sa-pair sa-empty"><p><strong>Whose face?</strong><br>
Drop a photo on the left, or pick one of the portraits.</p></div>"""
    age, picture, read = drawn
    said = f"The face at the age of {age:.0f}" + ("" if read is None else f"; the model reads {read:.0f} years in it")
    return f"""<div class="sa-pair">
<figure><img src="{data_uri(sitting.face)}" alt="The face as it came, aligned">
<figcaption><span class="sa-what">As it came</span>
<span class="sa-looks">{looks(sitting.age_read)}</span></figcaption></figure>
<figure><img id="sa-aged" src="{data_uri(picture)}" alt="{said}">
<figcaption><span class="sa-what">At {age:.0f}</span><span class="sa-looks">{looks(read)}</span>
{save("sa-aged", f"age_{age:03.0f}", picture)}</figcaption></figure></div>"""


def save(source: str, stem: str, picture: Image.Image | str) -> str:
    """A button that saves a picture of the page. picture: it, for its kind; or the kind."""
    kind = picture if isinstance(picture, str) else ("png" if max(picture.size) <= 512 else "webp")
    name, said = ("jpg" if kind == "jpeg" else kind), {"webp": "WebP"}.get(kind, kind.upper())
    return (
        f'<button type="button" class="sa-save" data-save="{stem}.{name}" data-from="{source}" '
        f'aria-label="Save {stem.replace("_", " ")} as {said}">Save {said}</button>'
    )


def strip(drawn: Sequence[Drawn], count: int, sheet: Image.Image | None = None) -> str:
    """Ages side by side, each a button that turns the slider there; blank where one is still to come."""
    cells = [
        f'<li><button type="button" data-pick="{age:g}" aria-label="Show the age of {age:g}">'
        f'<img src="{thumbnail(picture)}" alt="The face at {age:g}"></button>'
        f'<span class="sa-what">{age:g}</span><span class="sa-looks">{looks(read)}</span></li>'
        for age, picture, read in drawn
    ]
    cells += ['<li aria-hidden="true"><div class="sa-blank"></div></li>'] * (count - len(drawn))
    saved = ""
    if sheet is not None:
        saved = f'<img id="sa-sheet" hidden alt="" src="{data_uri(sheet, "jpeg")}">{save("sa-sheet", "ages", "jpeg")}'
    return f'<ol class="sa-strip" aria-label="The face through the ages">{"".join(cells)}</ol>{saved}'


def film(data: bytes, kind: str) -> str:
    return f"""<figure class="sa-film"><img id="sa-film" src="{raw_uri(data, kind)}"
alt="The face growing older and younger, as a film">
<figcaption><span class="sa-what">0 to 100 and back</span>{save("sa-film", "ages", kind)}</figcaption></figure>"""


def progress(share: float, what: str) -> str:
    return f'<p class="sa-progress"><progress value="{share:.3f}">{share:.0%}</progress> {escape(what)}</p>'


def in_photo(picture: Image.Image, age: float) -> str:
    return f"""<figure class="sa-whole"><img id="sa-whole" src="{data_uri(picture, "jpeg")}"
alt="The photo with the chosen face at the age of {age:.0f}">
<figcaption><span class="sa-what">At {age:.0f}, in its place</span>{save("sa-whole", f"photo_age_{age:03.0f}", "jpeg")}
</figcaption></figure>"""


def reference(face: Image.Image | None) -> str:
    if face is None:
        return (
            '<p class="sa-hint">Pick a face, or drop a photo of one: its colours and textures come over, '
            "as much of them as “Borrowed look” says.</p>"
        )
    return f"""<figure class="sa-reference"><img src="{thumbnail(face)}" alt="The face whose look is borrowed">
<figcaption>Colours and textures come from this face.</figcaption></figure>"""
