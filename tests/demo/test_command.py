"""sam-demo: its settings are checked before a model is loaded, and it ends without a trace."""

from __future__ import annotations

import builtins

import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from sam_age.cli.demo import demo
from sam_age.config import CONF_DIR
from sam_age.errors import InputError
from sam_age.weights import save
from tests.modules.test_aging import tiny_sam

pytest.importorskip("gradio")


def settings(*overrides: str):
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("demo", overrides=list(overrides))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("port=0", "port is a whole number above 0"),
        ("megabytes=much", "megabytes is a number above 0"),
        ("photo_side=1.5", "photo_side is a whole number"),
        ("open_browser=maybe", "open_browser is true or false"),
        ("samples=/not/there", "no folder"),
    ],
)
def test_wrong_settings_are_named(override: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        demo(settings(override))


def test_without_gradio_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest, **more):
        if name == "gradio":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"pip install 'sam-age\[demo\]'"):
        demo(settings())


def test_the_default_is_this_machine_alone() -> None:
    assert settings().host == "127.0.0.1"


def test_it_serves_until_it_is_interrupted(tmp_path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    save(tiny_sam().eval(), tmp_path / "sam.safetensors")
    (tmp_path / "faces").mkdir()
    Image.new("RGB", (256, 256)).save(tmp_path / "faces" / "a.png")

    def interrupted() -> None:
        raise KeyboardInterrupt

    caplog.set_level("INFO")
    monkeypatch.setattr("sam_age.cli.demo.until_interrupted", interrupted)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        demo(settings(f"checkpoint={tmp_path / 'sam.safetensors'}", f"samples={tmp_path / 'faces'}", "device=cpu"))
    assert "The page is at http://127.0.0.1:" in caplog.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces", "sam.safetensors"]
