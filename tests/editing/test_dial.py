"""The identity dial: in a world where identity and age are known functions of the code."""

import numpy as np
import pytest
import torch

from sam_age.editing import dial, dial_curve
from sam_age.editing.plot import Curve, draw
from sam_age.errors import InputError


def paint(codes: torch.Tensor) -> torch.Tensor:
    """Codes (N, 1, 2) of an angle and an age -> flat pictures (N, 3, 256, 256) that hold them in two channels."""
    first, second = codes[:, 0, 0], codes[:, 0, 1]
    return torch.stack([first, second, 0 * first], 1)[:, :, None, None].expand(-1, -1, 256, 256)


def who(faces: torch.Tensor) -> torch.Tensor:
    angle = faces[:, 0].mean((1, 2))
    return torch.stack([angle.cos(), angle.sin()], 1)


def how_old(faces: torch.Tensor) -> torch.Tensor:
    return 100 * faces[:, 1].mean((1, 2))


def curve(**kwargs):
    source = torch.tensor([[[0.0, 0.2]], [[0.5, 0.3]]])
    aged = torch.tensor([[[0.9, 0.8]], [[-0.5, 0.9]]])
    return dial_curve(paint, paint(source), source, aged, [80, 90], identity=who, age=how_old, **kwargs)


def test_the_dial_goes_from_the_source_to_the_aged_code():
    source, aged = torch.randn(2, 14, 8), torch.randn(2, 14, 8)
    assert torch.equal(dial(source, aged, 0), source)
    assert torch.equal(dial(source, aged, 1), aged)
    each = dial(source, aged, torch.tensor([0.5, 1.0]))
    torch.testing.assert_close(each[0], (source[0] + aged[0]) / 2)
    assert torch.equal(each[1], aged[1])
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="from 0"):
            dial(source, aged, wrong)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_curve_is_identity_and_age_at_each_amount(batch_size):
    found = curve(batch_size=batch_size)
    amounts = np.linspace(0, 1, 11)
    np.testing.assert_allclose(found.identity[0], np.cos(0.9 * amounts), atol=1e-5)
    np.testing.assert_allclose(found.identity[1], np.cos(1.0 * amounts), atol=1e-5)
    np.testing.assert_allclose(found.ages, [20 + 60 * amounts, 30 + 60 * amounts], atol=1e-3)
    rows = found.rows()
    assert len(rows) == 22
    assert rows[13] == {"face": 1, "target_age": 90.0, "amount": 0.2, "identity": found.identity[1, 2].item(),
                        "age_read": found.ages[1, 2].item()}  # fmt: skip


def test_the_largest_amount_that_keeps_an_identity():
    found = curve(amounts=np.linspace(0, 1, 101))
    first, second = found.largest(0.8)
    assert first == pytest.approx(np.arccos(0.8) / 0.9, abs=1e-3)
    assert second == pytest.approx(np.arccos(0.8) / 1.0, abs=1e-3)
    assert found.largest(0.3) == [1.0, 1.0]
    assert found.largest(1.1) == [0.0, 0.0]


def test_the_plot_shows_every_point(tmp_path):
    found = curve()
    picture = found.plot(tmp_path / "dial.png", size=(400, 300))
    assert picture.size == (400, 300)
    assert (tmp_path / "dial.png").is_file()
    pixels = np.asarray(picture).astype(int)
    for colour in ((31, 119, 180), (217, 95, 2)):
        assert (np.abs(pixels - colour).sum(-1) < 12).sum() > 11 * 9  # eleven dots of some pixels, and a line


def test_a_plot_puts_points_in_their_places():
    pixels = np.asarray(draw([Curve([0, 10], [0, 1], "")], "x", "y", (400, 300))).astype(int)
    rows, columns = np.nonzero(np.abs(pixels - (31, 119, 180)).sum(-1) < 12)
    assert columns.min() == pytest.approx(62 - 3, abs=1)
    assert columns.max() == pytest.approx(400 - 24 + 3, abs=1)
    assert rows[columns.argmin()] == pytest.approx(300 - 52, abs=2)
    assert rows[columns.argmax()] == pytest.approx(32, abs=2)


def test_amounts_have_to_rise():
    with pytest.raises(InputError, match="rise"):
        curve(amounts=[0, 1, 0.5])
