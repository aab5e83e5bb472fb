"""Every place that pictures may be in gives the same pictures."""

import io
import pickle
import tarfile
import zipfile

import pytest

from sam_age.data.sources import FolderFaces, Subset, TarShards, ZipFaces, expand_shards, open_source
from sam_age.errors import InputError
from tests.data.faces import known_again, png


def write_tar(path, numbers):
    with tarfile.open(path, "w") as tar:
        for number in numbers:
            for name, data in ((f"{number:05d}.png", png(number)), (f"{number:05d}.json", b"{}")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def write_folder(root, names):
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))


FFHQ_LAYOUTS = {
    "numbered subfolders": ["00000/00000.png", "00000/00001.png", "01000/01000.png"],
    "flat": ["00000.png", "00001.png", "01000.png"],
    "under its own name": [f"images1024x1024/{n}" for n in ("00000/00000.png", "00000/00001.png", "01000/01000.png")],
    "thumbnails": [f"thumbnails128x128/{n}" for n in ("00000/00000.png", "00000/00001.png", "01000/01000.png")],
}


@pytest.mark.parametrize("names", FFHQ_LAYOUTS.values(), ids=FFHQ_LAYOUTS)
def test_a_folder_is_read_at_any_depth_in_order(tmp_path, names):
    write_folder(tmp_path, names)
    (tmp_path / "LICENSE.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_bytes(png())
    source = open_source(tmp_path)
    assert isinstance(source, FolderFaces)
    assert [source.name(i).replace("\\", "/").removeprefix(f"{tmp_path.as_posix()}/") for i in range(3)] == names
    assert len(source) == 3
    assert all(known_again(source.read(i), i) for i in range(3))


def test_the_order_is_that_of_folders_and_names_whatever_the_separator(tmp_path):
    in_order = ["a/b.png", "a/c/0.png", "a-b/0.png", "a.png"]  # as text "-" and "." come before "/", not before "\\"
    write_folder(tmp_path, in_order)
    source = FolderFaces(tmp_path)
    assert [source.name(i) for i in range(4)] == [str(tmp_path / name) for name in in_order]


def test_links_to_folders_are_followed_once_and_loops_end(tmp_path):
    write_folder(tmp_path / "faces", ["z/0.png", "z/deep/1.png"])
    write_folder(tmp_path / "elsewhere", ["2.png"])
    links = {"faces/a": "faces/z", "faces/z/deep/up": "faces", "faces/other": "elsewhere"}
    for link, target in links.items():
        try:
            (tmp_path / link).symlink_to(tmp_path / target, target_is_directory=True)
        except OSError:
            pytest.skip("links need a privilege here")
    source = FolderFaces(tmp_path / "faces")
    names = [source.name(i) for i in range(len(source))]
    assert names == [str(tmp_path / "faces" / name) for name in ("other/2.png", "z/0.png", "z/deep/1.png")]


@pytest.mark.parametrize(
    ("faces", "beside"),
    [
        ("images1024x1024/00000/00000.png", ["in-the-wild-images/00000/00000.png", "thumbnails128x128/00000.png"]),
        ("thumbnails128x128/00000/00000.png", ["in-the-wild-images/00000/00000.png"]),
        ("CelebA-HQ-img/0.jpg", ["CelebAMask-HQ-mask-anno/0/00000_hair.png"]),
    ],
)
def test_of_a_whole_download_only_the_aligned_faces_are_read(tmp_path, faces, beside):
    write_folder(tmp_path, [faces, *beside])
    source = open_source(tmp_path)
    assert [source.name(i) for i in range(len(source))] == [str(tmp_path / faces)]


def test_a_zip_is_read_like_the_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        for number in (1, 0):
            archive.writestr(f"deep/er/{number}.png", png(number))
        archive.writestr("__MACOSX/deep/._0.png", b"a resource fork")
        archive.writestr("readme.txt", "")
    source = open_source(tmp_path / "faces.zip")
    assert isinstance(source, ZipFaces)
    assert [known_again(source.read(i), i) for i in range(len(source))] == [True, True]


def test_shards_are_read_by_folder_braces_glob_or_name(tmp_path):
    write_tar(tmp_path / "faces-000.tar", [0, 1])
    write_tar(tmp_path / "faces-001.tar", [2])
    wheres = (tmp_path, tmp_path / "faces-{000..001}.tar", tmp_path / "faces-*.tar")
    for where in wheres:
        source = open_source(str(where))
        assert isinstance(source, TarShards)
        assert source.blocks == [2, 1]
        assert all(known_again(source.read(i), i) for i in (2, 0, 1))
    one = open_source(tmp_path / "faces-001.tar")
    assert len(one) == 1
    assert known_again(one.read(0), 2)


def test_two_braces_make_every_pair():
    assert expand_shards("{0..1}/{08..10}.tar") == [f"{a}/{b}.tar" for a in (0, 1) for b in ("08", "09", "10")]


def test_a_folder_with_brackets_in_its_name_is_a_folder(tmp_path):
    write_folder(tmp_path / "faces [2020] {a}", ["0.png"])
    assert len(open_source(tmp_path / "faces [2020] {a}")) == 1


def test_an_open_archive_survives_pickling(tmp_path):
    """As spawned workers receive it, after the parent has read from it."""
    write_tar(tmp_path / "x.tar", [0, 1])
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("0.png", png(0))
        archive.writestr("1.png", png(1))
    for name in ("x.tar", "x.zip"):
        source = open_source(tmp_path / name)
        source.read(0)
        assert known_again(pickle.loads(pickle.dumps(source)).read(1), 1)


def test_a_subset_is_the_pictures_named(tmp_path):
    write_folder(tmp_path, ["0.png", "1.png", "2.png"])
    subset = Subset(open_source(tmp_path), [2, 0])
    assert [known_again(subset.read(i), n) for i, n in enumerate((2, 0))] == [True, True]


def test_a_damaged_zip_member_is_an_input_error_of_its_own(tmp_path):
    path = tmp_path / "faces.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", png(0, 64))
        archive.writestr("1.png", png(1, 64))
    data = bytearray(path.read_bytes())
    data[60:70] = b"0123456789"
    path.write_bytes(data)
    source = open_source(path)
    with pytest.raises(InputError, match=r"0\.png cannot be unpacked"):
        source.read(0)
    assert known_again(source.read(1), 1)


def test_where_there_are_no_faces_one_line_says_so(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "bad.tar").write_text("hello")
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as archive:
        archive.writestr("a.txt", "")
    with tarfile.open(tmp_path / "none.tar", "w"):
        pass
    complaints = {
        "absent": "nothing at",
        "empty": "No pictures below",
        "text.txt": "neither a folder, a zip nor a tar",
        "bad.tar": "cannot be read as a tar",
        "none.zip": "No pictures in",
        "none.tar": "No pictures in the 1 shards",
        "absent-{0..1}.tar": "cannot be read as a tar",
        "absent-*.tar": "No tar shards match",
    }
    for name, says in complaints.items():
        with pytest.raises(InputError, match=says) as error:
            open_source(tmp_path / name)
        assert "\n" not in str(error.value)


def test_a_link_back_to_a_folder_does_not_go_round_for_ever(tmp_path):
    write_folder(tmp_path, ["a.png", "deep/b.png"])
    try:
        (tmp_path / "deep" / "up").symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("this system makes no links")
    assert len(FolderFaces(tmp_path)) == 2
