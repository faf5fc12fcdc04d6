"""The recipes of the attention layers of KerasHub's models of pictures."""

from keras import ops

from keras_sam import scores
from keras_sam.convert.hub.parts import dropout
from keras_sam.convert.hub.recipe import Recipe, read_input, read_output


def vit(layer):
    """Of the vision encoders of PaliGemma and Gemma 3."""
    heads = layer.num_heads
    return Recipe(
        *(
            read_input(getattr(layer, f"{n}_proj"), heads)
            for n in ("query", "key", "value")
        ),
        read_output(layer.out_proj, heads),
        options=dropout(layer),
    )


def segformer(layer):
    heads, width = layer.num_heads, layer.q.units
    scale = (width // heads) ** -0.5
    return Recipe(
        *(read_input(dense, heads) for dense in (layer.q, layer.k, layer.v)),
        read_output(layer.proj, heads),
        ((scores.ScaledDot(scale), ()),),
        options={"dropout": float(layer.dropout.rate)},
    )


def swin(layer):
    """One kernel holds queries, keys and values, one after the other."""
    whole = read_input(layer.qkv, 3 * layer.num_heads)
    heads = layer.num_heads
    parts = [whole.heads(i * heads, (i + 1) * heads) for i in range(3)]
    # Its distances are of a row from a key, ours of a key from a row.
    table = ops.convert_to_numpy(layer.relative_position_bias_table)[::-1]
    bias = scores.GridBias(layer.window_size), (table,)
    return Recipe(
        *parts,
        read_output(layer.proj, heads),
        ((scores.ScaledDot(float(layer.scale)), ()), bias),
        options={"dropout": float(layer.attn_drop_rate)},
    )
