"""Foreign attention: the weights of attention layers that are not of keras_sam.

`watch` sees what Keras's, KerasHub's and a user's own layers look at, without a change
to them. Three functions of Keras are replaced while somebody watches: `Layer.__call__`
tells which layer runs, and the backend's `softmax` and `dot_product_attention`, through
which all attention of Keras goes, have the weights.

A softmax counts as attention by these rules:

1. A call of `keras.ops.dot_product_attention` is attention of the layer that makes it.
2. Any other softmax belongs to the innermost layer that runs. A layer that returns it
   as its only or first output (`keras.layers.Softmax`, `Activation("softmax")`) hands it
   to the layer that called it.
3. It counts if that layer is an attention layer: the class or a base of it has
   "Attention" in its name. The probabilities that `AttentionClassifier` returns are
   handed on by rule 2 and belong to nobody, and the softmax of a router inside of an
   attention layer belongs to the router.
4. It has an axis of examples and one of queries beside the normalized axes.

Not seen are softmaxes of TensorFlow, JAX or PyTorch themselves (`tf.nn.softmax`), other
normalizers, and attention that samples a few points of a picture ("Deformable").
"""

from keras_sam.foreign.hooks import watch
from keras_sam.foreign.maps import ForeignMap

__all__ = ["ForeignMap", "watch"]
