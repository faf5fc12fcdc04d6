"""Combinations of sections and options, against loops in float64."""

import darknet_networks
import darknet_oracle
import numpy as np
import pytest

from keras_sam import darknet

pytestmark = pytest.mark.tensorflow

# What the reference vectors have none of, or only one of.
NETWORKS = {
    "stride without room": """
        [net]
        height=3
        width=5
        channels=2
        [conv]
        filters=2
        size=4
        stride=2
        activation=linear
        [route]
        layers=0
        [maxpool]
        size=2
        stride=2
        padding=0
        """,
    "pooling geometry": """
        [net]
        height=11
        width=14
        channels=3
        [maxpool]
        size=3
        stride=2
        [conv]
        filters=4
        size=3
        pad=1
        activation=tanh
        [local_avg]
        size=3
        stride_x=2
        stride_y=1
        [upsample]
        stride=3
        scale=-2
        [upsample]
        stride=-2
        scale=0.25
        [max]
        size=5
        stride=3
        padding=1
        [local_avgpool]
        size=4
        padding=2
        stride=2
        [maxpool]
        maxpool_depth=1
        out_channels=3
        """,
    "shared weights": """
        [net]
        height=13
        width=17
        channels=4
        [conv]
        batch_normalize=1
        filters=4
        size=3
        pad=1
        groups=2
        activation=swish
        [conv]
        batch_normalize=1
        filters=4
        size=3
        pad=1
        groups=2
        dilation=2
        share_index=0
        activation=leaky
        [conv]
        filters=4
        size=3
        stride=2
        padding=2
        groups=2
        share_index=-1
        activation=linear
        [conv]
        filters=4
        size=3
        stride=2
        dilation=3
        pad=1
        activation=mish
        [conv]
        filters=4
        size=3
        share_index=-1
        activation=hard_mish
        """,
    "shortcuts": """
        [net]
        height=5
        width=7
        channels=3
        [conv]
        filters=2
        activation=linear
        [conv]
        filters=5
        activation=linear
        [conv]
        filters=3
        activation=linear
        [shortcut]
        from=0,1,-1
        activation=swish
        [shortcut]
        from=0,-3
        weights_type=per_channel
        weights_normalization=avg_relu
        activation=mish
        [shortcut]
        from=1,0
        weights_type=per_layer
        weights_normalization=softmax
        activation=gelu
        """,
    "heads": """
        [net]
        height=4
        width=6
        channels=3
        [conv]
        filters=14
        activation=linear
        [yolo]
        classes=2
        num=3
        mask=2,0
        anchors=1,2, 3,4, 5,6,
        scale_x_y=1.2
        [conv]
        filters=5
        activation=logistic
        [yolo]
        classes=0
        new_coords=1
        scale_x_y=2
        """,
    "gates": """
        [net]
        height=5
        width=7
        channels=3
        [conv]
        filters=6
        activation=tanh
        [avg]
        [conv]
        filters=6
        activation=loggy
        [scale_channels]
        from=-3
        activation=elu
        [conv]
        filters=1
        [scale_channels]
        from=0
        scale_wh=1
        activation=selu
        [sam]
        from=-1, 99
        activation=relie
        [conv]
        filters=8
        size=2
        padding=1
        stride_x=2
        activation=linear
        [reorg3d]
        stride=2
        """,
    "classifier": """
        [net]
        height=9
        width=12
        channels=3
        [crop]
        crop_height=6
        crop_width=7
        noadjust=1
        [local]
        filters=4
        size=2
        stride=2
        activation=linear
        [local]
        filters=5
        size=3
        pad=1
        stride=2
        activation=leaky
        [connected]
        output=6
        batch_normalize=1
        activation=elu
        [dropout]
        [connected]
        output=12
        activation=linear
        [soft]
        groups=3
        temperature=2.5
        [cost]
        type=sse
        """,
    "softmax of a map": """
        [net]
        height=4
        width=5
        channels=6
        [softmax]
        groups=2
        temperature=0.5
        [conn]
        output=8
        [softmax]
        """,
    "reorg": """
        [net]
        height=6
        width=12
        channels=18
        [reorg]
        stride=2
        reverse=0
        [route]
        layers=-1
        [conv]
        filters=18
        activation=relu6
        [reorg]
        stride=3
        [conv]
        filters=8
        activation=tanh
        [reorg]
        stride=2
        reverse=1
        """.replace("channels=18", "channels=20").replace("filters=18", "filters=36"),
    "unequal shortcuts": """
        [net]
        height=11
        width=8
        channels=3
        [conv]
        filters=5
        size=3
        stride=2
        pad=1
        activation=relu6
        [conv]
        filters=4
        size=3
        stride=3
        pad=1
        activation=tanh
        [shortcut]
        from=0
        alpha=0.5
        beta=-2
        activation=relie
        [upsample]
        stride=6
        [shortcut]
        from=0
        activation=leaky
        [shortcut]
        from=-1
        beta=0.5
        """.replace("height=11", "height=8"),
    "other heads": """
        [net]
        height=4
        width=6
        channels=3
        [conv]
        filters=22
        activation=linear
        [Gaussian_yolo]
        classes=2
        num=4
        mask=1,3
        anchors=1,2, 3,4, 5,6, 7,8
        scale_x_y=1.3
        [conv]
        filters=16
        activation=linear
        [region]
        classes=3
        num=2
        softmax=1
        anchors=1,2, 3,4
        [conv]
        filters=14
        activation=linear
        [region]
        classes=2
        num=2
        anchors=1,2, 3,4
        [connected]
        output=52
        activation=linear
        [detection]
        side=2
        classes=3
        num=2
        coords=4
        softmax=1
        [connected]
        output=52
        [detection]
        side=2
        classes=3
        num=2
        coords=4
        [contrastive]
        """,
}


def check(text, seed):
    rng = np.random.default_rng(seed)
    oracle = darknet_oracle.Network(text, rng)
    x = rng.uniform(0, 1, oracle.input_shape())
    expected = oracle.run(x)
    data = darknet.Header().to_bytes() + oracle.weights().tobytes()
    model = darknet.build_model(text, data)
    x = np.transpose(x, (1, 2, 0))[None].astype("float32")
    outputs = darknet.layer_outputs(model)(x, training=False)
    for (name, output), y in zip(outputs.items(), expected, strict=True):
        # Errors grow with what came before; a wrong cell is wrong by far more.
        np.testing.assert_allclose(
            np.transpose(output[0], (2, 0, 1)),
            y,
            rtol=1e-3,
            atol=1e-4 * max(1, np.abs(y).max()),
            err_msg=f"{name} of\n{text}",
        )


@pytest.mark.parametrize("name", NETWORKS)
def test_combination(name):
    check(NETWORKS[name], seed=7)


@pytest.mark.parametrize("seed", range(3))
def test_random_network(seed):
    rng = np.random.default_rng(seed)
    check(darknet_networks.random_cfg(rng, layers=12), seed)


def test_unknown_size():
    """The same network, built for any size, computes the same."""
    text = darknet_networks.section("net", channels=3)
    body = "".join(
        [
            darknet_networks.conv(4, 3, stride=2),
            "[maxpool]\nsize=3\nstride=2\n",
            "[local_avgpool]\nsize=3\n",
            darknet_networks.conv(4, activation="logistic"),
            "[sam]\nfrom=-2\n[upsample]\n[reorg3d]\nstride=2\n[upsample]\nstride=-1\n",
            "[shortcut]\nfrom=-2\n[avgpool]\n[scale_channels]\nfrom=-2\n",
        ]
    )
    anywhere = darknet.build_model(text + body, input_shape=(None, None, 3))
    assert anywhere.output.shape == (None, None, None, 16)
    for size in [(33, 17), (16, 40)]:
        fixed = darknet.build_model(text + body, input_shape=(*size, 3))
        fixed.set_weights(anywhere.get_weights())
        x = np.random.default_rng(0).uniform(size=(2, *size, 3)).astype("float32")
        np.testing.assert_allclose(anywhere(x), fixed(x), rtol=1e-6, atol=1e-6)


def test_unknown_size_of_other_sections():
    """[crop], [reorg] and [softmax] go by the size of the call, too."""
    text = "[net]\nchannels=4\n[conv]\nfilters=4\n[reorg]\nstride=2\n"
    more = "[softmax]\ngroups=2\n"
    anywhere = darknet.build_model(text + more, input_shape=(None, None, 4))
    crop = darknet.build_model(
        (text + more).replace("[reorg]\nstride=2", "[crop]\ncrop_height=3\ncrop_width=5"),
        input_shape=(None, None, 4),
    )
    assert crop.output.shape == (None, 3, 5, 4)
    for size in [(6, 8), (4, 10)]:
        x = np.random.default_rng(0).uniform(size=(2, *size, 4)).astype("float32")
        for model in (anywhere, crop):
            fixed = darknet.build_model(model.plan.sections, input_shape=(*size, 4))
            fixed.set_weights(model.get_weights())
            np.testing.assert_allclose(model(x), fixed(x), rtol=1e-6, atol=1e-6)
    for more in ("[local]\n", "[shortcut]\nfrom=0\nbeta=2\n"):
        with pytest.raises(darknet.DarknetError, match="known height and width"):
            darknet.build_model(text + more, input_shape=(None, None, 4))
    with pytest.raises(darknet.DarknetError, match="must be known"):
        darknet.build_model(text + "[connected]\n", input_shape=(None, None, 4))
