"""Reading configurations: Darknet's syntax, and everything that is refused."""

import dataclasses
import functools
import logging
import re
import time

import darknet_fuzz
import darknet_networks
import darknet_yolo
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from keras_sam import darknet
from keras_sam.darknet import geometry
from keras_sam.darknet.cfg import MAX_BYTES
from keras_sam.darknet.plan import plan_network

TIDY = """
[net]
width=24
height=16
channels=3
[convolutional]
filters=8
size=3
stride=2
pad=1
activation=mish
[convolutional]
filters=8
size=1
activation=logistic
[sam]
from=-2
[route]
layers=-1,-3
"""
UNTIDY = """\ufeff; a comment\r
### another\r
 [ net ] \r
wid th = 24 pixels\r
\theight=16 ### P6\r
channels=3.9\r
learning_rate = bogus, it is never read\r
\r
[conv]\r
filters=8\r
filters=99\r
 size = 3\r
stride=2abc\r
pad=+1\r
activation = mish\r
unheard_of=1\r
a line without meaning\r
[conv]\r
filters=0008\r
dilation=7\r
\r
[sam]\r
from = -2, 99, what\r
[route]\r
layers = -1 , -3 ### coarser"""


def shapes(cfg):
    return [(spec.name, spec.shape) for spec in plan_network(cfg).layers]


def test_untidy_files_mean_the_same(tmp_path, caplog):
    path = tmp_path / "model.cfg"
    path.write_bytes(UNTIDY.encode())
    assert shapes(UNTIDY) == shapes(UNTIDY.encode()) == shapes(path) == shapes(TIDY)
    sections = darknet.parse_cfg(str(path))
    assert sections.source == str(path)
    assert [section.name for section in sections] == [
        *("net", "convolutional", "convolutional", "sam", "route")
    ]
    assert [section.index for section in sections] == [None, 0, 1, 2, 3]
    assert darknet.parse_cfg(sections) is sections
    with caplog.at_level(logging.WARNING, logger="keras_sam.darknet"):
        darknet.build_model(path)
    notices = [record.getMessage() for record in caplog.records]
    assert notices == [
        f"{path}, line 11: [convolutional] repeats `filters`; the value of line 10 counts",
        f"{path}, line 16: [convolutional] has no option `unheard_of`; it is ignored",
        f"{path}, line 17: [convolutional] has no option `alinewithoutmeaning`; it is "
        "ignored",
    ]


ALIASES = {
    "convolutional": "conv",
    "maxpool": "max",
    "avgpool": "avg",
    "local_avgpool": "local_avg",
    "net": "network",
}
TEXT = ("activation", "weights_type", "weights_normalization", "nms_kind")


def untidy(text, rng):
    """Returns the same configuration as a person might leave it."""

    def spread(word):
        """White space goes anywhere in a line, even inside words and numbers."""
        at = int(rng.integers(len(word) + 1))
        return word[:at] + rng.choice([" ", "", "\t", "  "]) + word[at:]

    lines = ["# made by hand", ""]
    for line in text.split("\n"):
        key, equals, value = line.partition("=")
        name = line.strip("[]")
        if equals:
            junk = "" if key in TEXT else rng.choice(["", " ### P6", "x", " ; was 7"])
            lines.append(f"{spread(key)}={spread(value)}{junk}")
            lines += [f" {key} = bogus", "; a comment, -1"][: rng.integers(3)]
        elif line:
            lines.append(spread(f"[{rng.choice([name, ALIASES.get(name, name)])}]"))
            lines += ["", "\t  ", "#[conv]"][: rng.integers(4)]
    return rng.choice(["\n", "\r\n"]).join(lines)


def meaning(cfg):
    """What is planned, less the lines that it stands in."""
    plan = plan_network(cfg)
    return [dataclasses.replace(spec, section=None) for spec in plan.layers]


@pytest.mark.parametrize("seed", range(20))
def test_untidied_networks_mean_the_same(seed):
    rng = np.random.default_rng(seed)
    tidy = darknet_networks.random_cfg(rng, layers=20)
    for text in (tidy, darknet_yolo.yolov4_sam(width=1 / 16, size=64)):
        assert meaning(untidy(text, rng)) == meaning(text)


@pytest.mark.parametrize(
    ("name", "layers", "weights"),
    [  # the published weight files hold this many floats
        ("yolov3", 107, 62_001_757),
        ("yolov3_tiny", 24, 8_858_734),
        ("yolov4", 162, 64_429_405),
        ("yolov4_tiny", 38, 6_062_814),
        ("yolov4_sam", 216, None),
    ],
)
def test_published_sizes(name, layers, weights):
    plan = plan_network(getattr(darknet_yolo, name)())
    assert len(plan.layers) == layers
    assert weights in (plan.weight_count, None)
    assert plan.notices == ()
    if name == "yolov4_sam":
        assert sum(spec.section.name == "sam" for spec in plan.layers) == 3


def test_output_size_rounds_as_c_does():
    assert geometry.output_size(13, 3, 2, 2) == 7
    assert geometry.output_size(12, 3, 2, 2) == 6
    assert geometry.output_size(2, 3, 2, 0) == 1
    assert geometry.output_size(2, 3, 1, 0) == 0
    assert geometry.padding(2, 3, 2, 0, 0) == (0, 1)
    assert geometry.output_size(None, 3, 2, 2) is None


NET = "[net]\nwidth=24\nheight=16\nchannels=4\n"
CONV = "[conv]\nfilters=8\nactivation=linear\n"


def layer(name, *options, before=CONV):
    return NET + before + "\n".join([f"[{name}]", *options, ""])


# What is wrong, the cfg, and what the error must say: line, index, option, words.
BAD = {
    "nothing": ("", (None, None, None, "no such file")),
    "only comments": ("# nothing\n", (None, None, None, "no section")),
    "no [net]": (CONV, (1, None, None, "must begin with [net]")),
    "option before [net]": ("width=3\n" + NET, (1, None, None, "first section")),
    "net alone": (NET, (1, None, None, "no layer")),
    "no width": (NET.replace("width", "#") + CONV, (1, None, "width", "must be given")),
    "zero width": (NET.replace("24", "0") + CONV, (2, None, "width", "at least 1")),
    "UTF-16": ((NET + CONV).encode("utf-16"), (1, None, None, "saved as UTF-8")),
    "zero bytes": ("[net]\n\0", (2, None, None, "zero byte")),
    "broken section": (NET + "[conv\n", (5, None, None, "alone on its line")),
    "section with comment": (NET + "[conv] # 1\n", (5, None, None, "alone on its")),
    "unknown section": (layer("magic"), (8, 1, None, "not a supported section")),
    "case": (layer("SAM", "from=0"), (8, 1, None, "not a supported section")),
    "unsupported section": (layer("iseg"), (8, 1, None, "segments instances")),
    "recurrent": (layer("crnn", "output=8"), (8, 1, None, "keeps a state")),
    "detectors' memory": (layer("conv_lstm"), (8, 1, None, "keeps a state")),
    "second net": (layer("net"), (8, 1, None, "not a supported section")),
    "sam without from": (layer("sam"), (8, 1, "from", "must be given")),
    "empty from": (layer("sam", "from="), (9, 1, "from", "has no value")),
    "from without =": (layer("sam", "from"), (9, 1, "from", "has no value")),
    "not a number": (layer("sam", "from=all"), (9, 1, "from", "an integer")),
    "itself": (layer("sam", "from=1"), (9, 1, "from", "this layer itself")),
    "forward": (layer("sam", "from=2"), (9, 1, "from", "forward")),
    "out of range": (layer("route", "layers=-2"), (9, 1, "layers", "before the first")),
    "huge index": (layer("route", "layers=9" + "9" * 99), (9, 1, "layers", "32 bits")),
    "trailing comma": (layer("route", "layers=0,"), (9, 1, "layers", "an integer")),
    "comma in comment": (layer("route", "layers=0#,b"), (9, 1, "layers", "integer")),
    "sam shapes": (layer("conv", "stride=2", "filters=8") + "[sam]\nfrom=0\n",
                   (12, 2, "from", "8 x 12 x 8")),
    "sam channels": (layer("conv", "filters=9") + "[sam]\nfrom=0\n",
                     (11, 2, "from", "multiplies equal shapes")),
    "scale shapes": (layer("scale_channels", "from=0"), (9, 1, "from", "1 x 1 x 8")),
    "scale_wh shapes": (layer("scale_channels", "from=0", "scale_wh=1"),
                        (9, 1, "from", "16 x 24 x 1")),
    "shortcut shapes": (layer("maxpool", "stride_x=2") + "[shortcut]\nfrom=0\n",
                        (11, 2, "from", "height and width")),
    "unequal beside [sam]": (layer("sam", "from=0") + "[max]\nstride=2\n[shortcut]\nfrom=0",
                             (13, 3, "from", "height and width")),
    "unequal crosswise": (layer("upsample") + "[crop]\ncrop_height=24\ncrop_width=16\n"
                          "[shortcut]\nfrom=0\n", (13, 3, "from", "height and width")),
    "unequal of two": (layer("maxpool", "stride=2") + "[shortcut]\nfrom=0,1\n",
                       (11, 2, "from", "height and width")),
    "route shapes": (layer("maxpool", "stride=2") + "[route]\nlayers=0,1\n",
                     (11, 2, "layers", "height and width")),
    "route groups": (layer("route", "layers=0", "groups=3"), (10, 1, "groups", "divide")),
    "route group": (layer("route", "layers=0", "groups=2", "group_id=2"),
                    (11, 1, "group_id", "from 0 to")),
    "conv groups": (layer("conv", "filters=6", "groups=4"), (10, 1, "groups", "divide")),
    "shortcut weights": (layer("shortcut", "from=0", "weights_type=all"),
                         (10, 1, "weights_type", "one of")),
    "no normalization": (layer("shortcut", "from=0", "weights_type=per_layer"),
                         (8, 1, "weights_normalization", "one of relu, avg_relu")),
    "zero stride": (layer("conv", "stride=0"), (9, 1, "stride", "at least 1")),
    "zero size": (layer("maxpool", "size=0"), (9, 1, "size", "at least 1")),
    "negative padding": (layer("conv", "padding=-1"), (9, 1, "padding", "negative")),
    "padded 1 x 1": (layer("conv", "padding=1"), (9, 1, "padding", "1 x 1")),
    "1 x 1 strides": (layer("conv", "stride_y=2"), (9, 1, "stride_y", "stride_x is 1")),
    "dilation": (layer("conv", "size=3", "dilation=2"), (10, 1, "dilation", "fit")),
    "nothing left": (layer("conv", "size=25"), (8, 1, None, "leaves nothing")),
    "empty windows": (layer("maxpool", "size=2", "padding=9"),
                      (10, 1, "padding", "without a cell")),
    "upsample": (layer("upsample", "stride=0"), (9, 1, "stride", "not be 0")),
    "downsample": (layer("upsample", "stride=-5"), (9, 1, "stride", "must divide")),
    "reorg3d": (layer("reorg3d", "stride=5"), (9, 1, "stride", "must divide")),
    "scale": (layer("upsample", "scale=1e999"), (9, 1, "scale", "finite number")),
    "probability": (layer("dropout", "probability=2"), (9, 1, "probability", "0 to 1")),
    "depth": (layer("maxpool", "maxpool_depth=1", "out_channels=9"),
              (10, 1, "out_channels", "at most the 8")),
    "share itself": (layer("conv", "share_index=1"), (9, 1, "share_index", "itself")),
    "share a pool": (layer("maxpool") + "[conv]\nshare_index=1\n",
                     (10, 2, "share_index", "must point at a convolution")),
    "share a shape": (layer("conv", "share_index=0"), (9, 1, "share_index", "weights")),
    "share no norm": (layer("conv", "filters=8") + "[conv]\nfilters=8\nshare_index=1\n"
                      "batch_normalize=1", (12, 2, "share_index", "no batch")),
    "yolo channels": (layer("yolo", "classes=4"), (9, 1, "classes", "channels, but")),
    "yolo mask": (layer("yolo", "classes=3", "mask=-1"), (10, 1, "mask", "negative")),
    "huge mask": (layer("yolo", "classes=3", "mask=256"), (10, 1, "mask", "less than")),
    "yolo mask channels": (layer("yolo", "mask=0,0"), (9, 1, "mask", "50 channels")),
    "yolo anchors": (layer("yolo", "classes=3", "anchors=a,b"),
                     (10, 1, "anchors", "finite number")),
    "yolo num": (layer("yolo", "num=1000000000"), (9, 1, "num", "at most 256")),
    "unknown activation": (layer("conv", "activation=mish#1"),
                           (9, 1, "activation", "is unknown")),
    "silu": (layer("conv", "activation=silu"), (9, 1, "activation", "mean swish?")),
    "sigmoid": (layer("sam", "from=0", "activation=Sigmoid"),
                (10, 1, "activation", "mean logistic?")),
    "misspelled": (layer("conv", "activation=liner"), (9, 1, "activation", "mean linear?")),
    "softmax groups": (layer("softmax", "groups=5"), (9, 1, "groups", "the 3072")),
    "tree": (layer("softmax", "tree=data/9k.tree"), (9, 1, "tree", "not supported")),
    "cold": (layer("softmax", "temperature=0"), (9, 1, "temperature", "not be 0")),
    "map after softmax": (layer("softmax") + "[dropout]\n[conv]\n",
                          (10, 3, None, "needs a map")),
    "map after cost": (layer("cost") + "[maxpool]\n", (9, 2, None, "needs a map")),
    "local pad": (layer("local", "size=3", "pad=2"), (10, 1, "pad", "half of size")),
    "local size": (layer("local", "size=17"), (9, 1, "size", "leaves nothing")),
    "huge local": (layer("local", "filters=90000"), (8, 1, None, "at most")),
    "huge matrix": (layer("connected", "output=99999"), (8, 1, None, "weights; at most")),
    "crop": (layer("crop", "crop_height=17"), (9, 1, "crop_height", "at most 16")),
    "reorg channels": (layer("reorg", "stride=3"), (9, 1, "stride", "8 channels twice")),
    "reorg size": (layer("reorg", "stride=2", before=CONV + "[max]\nsize=2\npadding=0\n"),
                   (12, 2, "stride", "must divide height")),
    "reorg extra": (layer("reorg", "extra=1"), (9, 1, "extra", "not supported")),
    "region channels": (layer("region", "classes=4"), (9, 1, "classes", "channels, but")),
    "region tree": (layer("region", "tree=a"), (9, 1, "tree", "YOLO9000")),
    "region map": (layer("region", "map=a"), (9, 1, "map", "YOLO9000")),
    "region coords": (layer("region", "coords=5"), (9, 1, "coords", "must be 4")),
    "region background": (layer("region", "background=1"),
                          (9, 1, "background", "not supported")),
    "detection coords": (layer("detection", "side=2"), (8, 1, "coords", "given as 4")),
    "detection inputs": (layer("detection", "coords=4"), (8, 1, "side", "294 inputs")),
    "Gaussian channels": (layer("Gaussian_yolo"), (8, 1, "classes", "(20 + 9) = 29")),
    "shortcut activation": (layer("shortcut", "from=0", "activation=hard_mish"),
                            (10, 1, "activation", "zeros")),
    "huge filters": (layer("conv", "filters=1000000000"), (8, 1, None, "at most")),
    "many channels": (layer("conv", "filters=1048577"), (8, 1, None, "1048576")),
    "huge layer": (layer("conv", "filters=30000", before="")
                   + "[conv]\nfilters=30000\n", (7, 1, None, "weights; at most")),
    "huge weights": (layer("conv", "filters=8000", before="")
                     + "[conv]\nfilters=8000\n" * 9, (23, 9, None, "brings the")),
    "huge head": (NET.replace("=4", "=268435456") + "[yolo]\nclasses=268435451\n",
                  (1, None, None, "channels; at most")),
    "huge kernel": (layer("conv", "size=100001", "pad=1"), (8, 1, None, "at most")),
    "huge padding": (layer("maxpool", "size=100001"), (8, 1, None, "at most")),
    "huge upsampling": (layer("upsample", "stride=99999"), (8, 1, None, "at most")),
    "huge picture": (NET.replace("24", "2000000000") + CONV, (1, None, None, "at most")),
    "many layers": (NET + CONV + "[dropout]\n" * 5000, (1031, None, None, "1024 layers")),
    "many sources": (layer("route", "layers=0" + ",0" * 64), (9, 1, "layers", "most 64")),
    "too long": (NET + CONV + "#" * MAX_BYTES, (None, None, None, "larger than")),
}  # fmt: skip
BAD |= {
    f"{option} in conv": (layer("conv", f"{option}=1"), (9, 1, option, "not supported"))
    for option in (
        *("antialiasing", "xnor", "binary", "sway", "rotate", "stretch", "flipped"),
    )
}
BAD |= {
    f"{activation} in {name}": (
        layer(name, "from=0", f"activation={activation}"),
        (10, 1, "activation", "Darknet outputs zeros"),
    )
    for name in ("sam", "activation")
    for activation in ("mish", "swish", "hard_mish", "normalize_channels")
}


@pytest.mark.parametrize("name", BAD)
def test_bad_cfg(name):
    cfg, (line, index, option, words) = BAD[name]
    start = time.process_time()
    with pytest.raises(darknet.DarknetError) as caught:
        plan_network(cfg)
    error = caught.value
    assert time.process_time() - start < darknet_fuzz.SECONDS
    assert (error.line, error.index, error.option) == (line, index, option), error
    assert words in str(error)
    for part in (line and f"line {line}", option and f"`{option}`"):
        assert not part or part in str(error)


def test_comments_in_any_encoding():
    """They are bytes to Darknet, which skips them."""
    text = TIDY.replace("[net]", "# größe\n[net]").replace("filters=8", "filters=8 # é")
    assert shapes(text.encode("latin-1")) == shapes(text) == shapes(TIDY)


def notices(cfg):
    return " ".join(plan_network(cfg).notices)


@pytest.mark.parametrize(
    ("cfg", "words"),
    [
        (layer("conv", "activation=relu6"), "line 9: .*relu6 is computed"),
        (layer("conv", "activation=relu6") + "[conv]\nactivation=relu6\n", "2 times"),
        (layer("softmax", "spatial=1"), "line 9: .*spatial` is ignored"),
        (layer("yolo", "classes=3", "mask=1"), "goes to 1, beyond num=1: the 0 anchors"),
        (layer("yolo", "classes=3", "anchors=7"), "holds 1 numbers, not 2"),
        (layer("region", "classes=3", "anchors=7,7"), "softmax` is 0"),
        (layer("shortcut", "from=0", "beta=2"), "as pjreddie's Darknet does"),
        (layer("shortcut", "from=0,0", "beta=2"), "line 10: .*`beta` is ignored"),
        (layer("sam", "from=0") + "[shortcut]\nfrom=0\nalpha=2\n", "`alpha` is ignored"),
        (layer("conv", "dontload=1"), "keeps the weights it begins with"),
        (layer("conv", "dontloadscales=1"), "statistics stay"),
        (layer("conv", "heigth=1"), "has no option `heigth`"),
    ],
)
def test_doubtful_things_are_said(cfg, words):
    assert re.search(words, notices(cfg)), notices(cfg)


@pytest.mark.parametrize(
    ("number", "expected"),
    [("", [0.5, 0.5, 0.5, 0.5]), ("anchors=10,20,", [10, 20, 0, 0.5]),
     ("anchors=1,2, 3 # 4", [1, 2, 3, 0.5]), ("anchors=1,2,3,4,5,6", [1, 2, 3, 4])],
)  # fmt: skip
def test_anchors(number, expected):
    """Darknet's rules where their number is not twice `num`."""
    cfg = layer("yolo", "num=2", "classes=0", number, before="[conv]\nfilters=10\n")
    pairs = plan_network(cfg).layers[-1].anchors
    assert [side for pair in pairs for side in pair] == expected


def test_more_anchors_than_num():
    """The anchors that are given are used, as in cspx-p7-mish.cfg."""
    head = ["num=16", "classes=0", "mask=0,16,19", "anchors=" + "1,2,"[:-1] + ",7,8" * 19]
    cfg = layer("yolo", *head, before="[conv]\nfilters=15\n")
    assert plan_network(cfg).layers[-1].anchors == ((1, 2), (7, 8), (7, 8))


@pytest.mark.parametrize(
    ("network", "size", "stride"),
    [("yolov4", 400, 32), ("yolov3_tiny", 400, 32), ("yolov4_sam", 528, 32)],
)
def test_an_input_size_that_does_not_fit(network, size, stride):
    text = getattr(darknet_yolo, network)(width=1 / 16, size=size)
    fit = -(-size // stride) * stride
    message = f"the input is {size} x {size}, .* multiples of {stride}, such as {fit} x"
    with pytest.raises(darknet.DarknetError, match=message) as caught:
        plan_network(text)
    assert caught.value.index is not None
    with pytest.raises(darknet.DarknetError, match=f"input is {size} x 64, .*{stride}"):
        plan_network(text, (size, 64, 3))
    assert plan_network(text, (fit, fit + stride, 3))


def test_the_largest_stride_is_named():
    """A later layer may need more than the one that fails first."""
    cfg = (
        "[net]\nwidth=48\nheight=64\nchannels=1\n[reorg3d]\nstride=32\n[reorg3d]\nstride=2"
    )
    with pytest.raises(darknet.DarknetError, match="multiples of 64, such as 64 x 64"):
        plan_network(cfg)


def test_error_names_the_file(tmp_path):
    path = tmp_path / "model.cfg"
    path.write_text(layer("sam", "from=7"))
    message = f"^{path}, line 9, layer 1 \\[sam\\], option `from`: points forward"
    with pytest.raises(darknet.DarknetError, match=message):
        darknet.build_model(path)
    with pytest.raises(darknet.DarknetError, match=r"missing\.cfg"):
        darknet.build_model(tmp_path / "missing.cfg")
    with pytest.raises(darknet.DarknetError, match="Received: int"):
        darknet.build_model(7)
    with pytest.raises(darknet.DarknetError):
        darknet.parse_cfg(tmp_path)


@pytest.mark.parametrize("shape", [(32, 32), (32, 32, None), (0, 32, 3), (1.5, 2, 3)])
def test_bad_input_shape(shape):
    with pytest.raises(ValueError, match="input_shape"):
        plan_network(TIDY, shape)


seeds = functools.cache(darknet_fuzz.seeds)


@hypothesis.given(st.one_of(st.text(), st.binary(), st.integers(0, 2**63)))
@hypothesis.settings(max_examples=150, deadline=None, database=None)
def test_fuzz(source):
    """Pure noise, or a configuration with some things wrong (by seed)."""
    rng = np.random.default_rng(source if isinstance(source, int) else 0)
    if isinstance(source, int):
        texts = seeds()
        source = darknet_fuzz.mutate(texts[rng.integers(len(texts))], rng)
    start = time.process_time()
    darknet_fuzz.run(source, rng)
    assert time.process_time() - start < darknet_fuzz.SECONDS
