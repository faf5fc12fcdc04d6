"""Pictures and names as Darknet reads them."""

import contextlib
import pathlib

import numpy as np
import pytest

from keras_sam import darknet

pytestmark = pytest.mark.tensorflow

FOLDER = pathlib.Path(__file__).parent / "data" / "darknet" / "letterbox"


def net(height, width, channels=3, extra=""):
    return (
        f"[net]\nheight={height}\nwidth={width}\nchannels={channels}\n{extra}[maxpool]\n"
        "size=2\n"
    )


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.npz")))
@pytest.mark.parametrize("letterbox", [True, False])
def test_like_darknet(name, letterbox):
    with np.load(FOLDER / f"{name}.npz") as arrays:
        picture = arrays["picture"].transpose(1, 2, 0)
        expected = arrays["letterboxed" if letterbox else "resized"].transpose(1, 2, 0)
    cfg = net(*expected.shape[:2])
    inputs = darknet.load_image(picture, cfg, letterbox=letterbox)
    assert inputs.dtype == np.float32
    np.testing.assert_allclose(inputs[0], expected, atol=2e-6)
    cfg = net(*expected.shape[:2], extra=f"letter_box={int(letterbox)}\n")
    np.testing.assert_array_equal(darknet.load_image(picture, cfg), inputs)


@pytest.mark.parametrize("height", [800, 240, 1024, 1])
def test_the_last_row_is_the_last_row(height):
    """Rounding once put it just before the last, and Darknet drew it black."""
    picture = np.linspace(0.5, 1, height, dtype="float32")[:, None, None].repeat(2, axis=1)
    for target in (320, 416, 640, 1):
        inputs = darknet.load_image(picture, net(target, 3, 1))
        assert inputs.min() >= 0.5
        if target > 1:
            np.testing.assert_allclose(inputs[0, 0], picture[0].max(), atol=1e-6)
        np.testing.assert_allclose(inputs[0, -1], picture[-1].max(), atol=1e-6)


def test_files(tmp_path):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 9, 3), dtype="uint8")
    image.fromarray(pixels).save(tmp_path / "picture.png")
    for path in (tmp_path / "picture.png", str(tmp_path / "picture.png")):
        inputs = darknet.load_image(path, net(6, 9))
        np.testing.assert_allclose(inputs[0], pixels / 255, atol=1e-6)
    np.testing.assert_array_equal(darknet.load_image(pixels, net(6, 9)), inputs)
    model = darknet.build_model(net(6, 9), input_shape=(None, None, 3))
    shape = darknet.load_image(pixels, model, input_size=(5, 4)).shape
    assert shape == (1, 5, 4, 3)
    grey = darknet.load_image(tmp_path / "picture.png", net(6, 9, 1))
    assert grey.shape == (1, 6, 9, 1)
    np.testing.assert_allclose(
        grey[0, ..., 0], pixels @ [0.299, 0.587, 0.114] / 255, atol=4e-3
    )


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (np.zeros((4, 4, 2), "float32"), r"a picture \(H, W, 3\)"),
        (np.zeros((4, 0, 3), "float32"), r"a picture \(H, W, 3\)"),
        (np.zeros((4, 4, 3), "int64"), "bytes .* or of floats"),
        ("missing.png", "no such picture"),
        ("text.png", "is no picture"),
    ],
)
def test_bad_pictures(picture, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("text.png").write_text("no picture")
    with pytest.raises(ValueError, match=message):
        darknet.load_image(picture, net(4, 4))


def test_pictures_need_a_size():
    model = darknet.build_model(net(4, 4), input_shape=(None, None, 3))
    with pytest.raises(ValueError, match="input_size"):
        darknet.load_image(np.zeros((4, 4, 3), "float32"), model)
    with pytest.raises(darknet.DarknetError, match="5 channels"):
        darknet.load_image("picture.png", net(4, 4, 5))


def test_files_of_other_kinds(tmp_path):
    """Deep pixels lose their lower bits, and pictures stand upright."""
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    path = tmp_path / "picture.png"
    deep = rng.integers(0, 2**16, (6, 9), dtype="uint16")
    image.fromarray(deep).save(path)
    for channels in (1, 3):
        inputs = darknet.load_image(path, net(6, 9, channels))
        expected = (deep >> 8)[..., None].repeat(channels, axis=-1) / 255
        np.testing.assert_allclose(inputs[0], expected, atol=1e-6)
    colors = rng.integers(0, 256, (6, 9, 4), dtype="uint8")
    image.fromarray(colors).save(path)
    opaque = darknet.load_image(path, net(6, 9))
    np.testing.assert_allclose(opaque[0], colors[..., :3] / 255, atol=1e-6)
    turned = image.Exif()
    turned[0x0112] = 6  # the first row is the right side
    image.fromarray(colors[..., :3]).save(path, exif=turned)
    upright = np.rot90(colors[..., :3], -1) / 255
    np.testing.assert_allclose(darknet.load_image(path, net(9, 6))[0], upright, atol=1e-6)
    path = tmp_path / "picture.tif"
    image.fromarray(rng.random((6, 9), dtype="float32")).save(path)
    with pytest.raises(darknet.DarknetError, match="numbers of 32 bits"):
        darknet.load_image(path, net(6, 9))


def test_damaged_files(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (16, 16, 3), dtype="uint8")
    for name in ("a.png", "a.jpg", "a.gif", "a.bmp"):
        path = tmp_path / name
        image.fromarray(pixels).save(path)
        whole = path.read_bytes()
        for _ in range(50):
            data = bytearray(whole[: rng.integers(len(whole))])
            for index in rng.integers(max(len(data), 1), size=3):
                data[index : index + 1] = rng.bytes(1)
            path.write_bytes(data)
            with contextlib.suppress(darknet.DarknetError):
                assert darknet.load_image(path, net(4, 4)).shape == (1, 4, 4, 3)
        path.write_bytes(whole)
    monkeypatch.setattr(image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(darknet.DarknetError, match="exceeds limit"):
        darknet.load_image(path, net(4, 4))


@pytest.mark.parametrize(
    "input_size", [(0, 4), ("a", 4), (4.5, 4), (4,), 5, (-1, 3), (True, 4), (None, 4)]
)
def test_bad_sizes(input_size):
    with pytest.raises(ValueError, match="`input_size` must be"):
        darknet.load_image(np.zeros((4, 4, 3)), net(4, 4), input_size=input_size)
    with pytest.raises(ValueError, match="`letterbox` must be"):
        darknet.load_image(np.zeros((4, 4, 3)), net(4, 4), letterbox=input_size)


def test_names(tmp_path, monkeypatch):
    """The path in a .data file counts from three directories."""
    folder = tmp_path / "data"
    folder.mkdir()
    names = folder / "pets.names"
    names.write_bytes("cat\r\nguinea pig\r\n\r\nk\u00e4fer\n\n".encode("latin-1"))
    expected = ["cat", "guinea pig", "", "käfer"]
    assert darknet.read_names(names) == darknet.read_names(str(names)) == expected
    data = folder / "pets.data"
    for path in ("data/pets.names", "pets.names", names):
        data.write_text(f"classes= 3\n# names=no\n names = {path}\nnames=later\n")
        assert darknet.read_names(data) == expected
    monkeypatch.chdir(tmp_path)
    assert darknet.read_names("data/pets.data") == expected
    # The classifier's file gives both; `labels` are codes of WordNet.
    (folder / "codes.list").write_bytes(b"n1\r\nn2\r\n")
    shouted = folder / "PETS.DATA"
    shouted.write_bytes(b"\xef\xbb\xbflabels=data/codes.list\nnames=data\\pets.names\r\n")
    assert darknet.read_names(shouted) == expected
    shouted.write_text("labels = data/codes.list")
    assert darknet.read_names(shouted) == ["n1", "n2"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.names", None, "no such file of names"),
        ("a.names", b"\n\n", "holds no names"),
        ("a.names", b"\0", "no file of names"),
        ("a.data", b"classes=2\n", "no option `names`"),
        ("a.data", b"\nnames=gone.names\n", "line 2: names a file that is not there: gone"),
    ],
)
def test_bad_names(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(darknet.DarknetError, match=message):
        darknet.read_names(tmp_path / name)
